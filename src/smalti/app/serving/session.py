"""State of one user: an item, its codes, and the model that encoded it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from smalti.app.serving.code_map import HOLE, edited, planes
from smalti.app.serving.media import table
from smalti.app.serving.models import Served
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.precision import full_precision
from smalti.core.priors import DensityPrior
from smalti.core.units import bits_per_dim
from smalti.decoding import cropped
from smalti.encoding import encode_signals
from smalti.evaluation.reconstruction import Reconstruction
from smalti.priors.labelled import LabelledPrior
from smalti.tokenizer import Tokenizer


@dataclass(frozen=True)
class Item:
    """An item of a user.

    Attributes:
        served: the model.
        codes: int64 `(1, G, *grid)`, with `HOLE` where a code was removed.
        before: the codes without the user's changes.
        signal: `(1, C, *size)`, in the model's range; None for an item that a prior has drawn.
        tokenizer: the model, for items of this size.
        class_name: class (speaker) that the decoder reads.
    """

    served: Served
    codes: Tensor
    before: Tensor
    signal: Tensor | None
    tokenizer: Tokenizer
    class_name: str | None = None

    def changed(self, edits: Any) -> Item:
        """Return the item with edits of a `code_map`."""
        return replace(self, codes=edited(self.codes, edits, self.served.tokenizer.autoencoder.num_codes))

    def reset(self) -> Item:
        """Return the item without the user's changes."""
        return replace(self, codes=self.before)

    def of_class(self, name: str | None) -> Item:
        """Return the item, decoded as another class."""
        return replace(self, class_name=self.served.decoder_class(name))

    @property
    def has_holes(self) -> bool:
        """True if codes are to be drawn."""
        return bool((self.codes == HOLE).any())

    def map(self, is_editable: bool = True, has_holes: bool = False) -> dict[str, Any]:
        """Return the value of a `code_map`."""
        num_codes = self.served.tokenizer.autoencoder.num_codes
        part = "codebook" if self.served.tokenizer.autoencoder.code_layout is None else "part"
        return planes(self.codes, num_codes, self.served.atlas, is_editable, has_holes, part)

    def decoded(self) -> Tensor:
        """Decode the codes to a signal `(1, C, *size)` in the model's range, of the size of the item.

        Raises:
            InputError: if there are holes.
        """
        if self.has_holes:
            raise InputError(
                "expected a code at each position, received holes: fill them, or reset the codes"
            )
        signal = self.tokenizer.decode_signals(self.codes, class_name=self.class_name)
        return signal if self.signal is None else cropped([signal], [self.signal.shape[2:]])[0]


def encoded(served: Served, signal: Tensor, own_size: bool = False, class_name: str | None = None) -> Item:
    """Encode a signal `(1, C, *size)` of the model's range."""
    tokenizer = served.tokenizer.native() if own_size and not served.is_sound else served.tokenizer
    (codes,) = encode_signals(tokenizer.autoencoder, tokenizer.modality, [signal])
    codes = codes.cpu()
    return Item(served, codes, codes, signal, tokenizer, served.decoder_class(class_name))


def figures(item: Item, decoded: Tensor) -> str:
    """Return the figures of an item's codes and reconstruction, as HTML."""
    model = item.tokenizer.autoencoder
    rows = []
    if item.signal is not None:
        measured = Reconstruction(model.signal)
        measured.update(item.signal, decoded)
        known = measured.compute()
        names = {"psnr": "PSNR, dB", "ssim": "SSIM", "mse_over_variance": "squared error / variance"}
        rows += [
            (title, f"{known[name]:.3f}") for name, title in names.items() if known.get(name) is not None
        ]
    num, books = item.codes.numel(), item.codes.shape[1]
    different = sum(len(book.unique()) for book in item.codes[0])
    nominal = num * math.log2(model.num_codes)
    rows.append(("codes", f"{num:,} ({different:,} different{' by codebook' if books > 1 else ''})"))
    rows.append(("bits of the codes", f"{nominal:,.0f}"))
    rows += [(f"bits under {name}", f"{bits:,.0f}") for name, bits in _rates(item)]
    seconds = item.tokenizer.modality.seconds(decoded.shape[2]) if item.served.is_sound else None
    if seconds:
        rows.append(("bits per second", f"{nominal / seconds:,.0f}"))
    elif not item.served.is_sound:
        rows.append(("bits per pixel", f"{nominal / (decoded.numel() / decoded.shape[1]):.3f}"))
    changes = int((item.codes != item.before).sum())
    if changes:
        rows.append(("codes changed", f"{changes:,}"))
    return table(rows)


def _rates(item: Item) -> list[tuple[str, float]]:
    """Bits of the codes under each prior with probabilities, without a class."""
    rates, model = [], item.tokenizer.autoencoder
    learned = (pair for pair in item.served.tokenizer.priors.items() if pair[0] != "uniform")
    for name, prior in learned:
        fits = item.tokenizer.modality.is_ragged or item.codes.shape[2:] == model.grid
        if not isinstance(prior, DensityPrior) or isinstance(prior, LabelledPrior) or not fits:
            continue
        try:
            with torch.no_grad(), full_precision(prior):
                nats = -prior.log_prob(item.codes.to(item.served.tokenizer.device), Conditions())
        except InputError:  # a prior of one size of grid
            continue
        rates.append((name, bits_per_dim(nats, 1).item()))
    return rates
