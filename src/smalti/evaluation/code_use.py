"""Whether a decoder uses its codes: how well it predicts a signal with them, with others, and with none.

An autoregressive decoder is strong enough to model the signal by itself, and some learn to. If shuffled codes
do as well as true ones, it has.
"""

from __future__ import annotations

import math
from collections import deque
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.core.conditions import Batch
from smalti.core.models import Autoencoder
from smalti.core.results import summed

APART = 64
"""Items between an item and the one whose codes are its shuffled ones."""
KINDS = ("true", "shuffled", "none")


@final
class CodeUse:
    """Collects distortions of an autoencoder that also learned to decode without codes.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Autoencoder) -> None:
        self._model = model
        self._nats: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._dims = 0
        self._before: deque[Tensor] = deque(maxlen=APART)

    @torch.no_grad()
    def update(self, batch: Batch, codes: Int64[Tensor, "b g *grid"]) -> None:
        """Add a batch, whose own codes these are.

        The shuffled codes of an item are those of the item `APART` before it, or of the first where there
        are not so many (neighbours in a folder may say the same), repeated or cut to its length. The very
        first item has none before it, and is left out.
        """
        others = []
        for own in codes.split(1):
            if self._before:
                others.append(_fitted(self._before[0], codes.shape[2]))
            self._before.append(own)
        if not others:
            return
        shuffled = torch.cat(others)
        first = len(codes) - len(shuffled)
        data, codes = batch.data[first:], codes[first:]
        lengths = None if batch.lengths is None else batch.lengths[first:]
        conditions = batch.conditions.part(slice(first, None))
        without = self._model.likelihood_without_codes(len(data), codes.shape[2:], conditions)
        if without is None:
            return
        likelihoods = {
            "true": self._model.likelihood(codes, conditions),
            "shuffled": self._model.likelihood(shuffled, conditions),
            "none": without,
        }
        for kind, likelihood in likelihoods.items():
            self._nats[kind] -= summed(likelihood.log_prob(data), lengths).double().sum().item()
        each = data[0].numel() // data.shape[2]
        self._dims += each * (len(data) * data.shape[2] if lengths is None else int(lengths.sum()))

    def compute(self) -> dict[str, float]:
        """Distortion in bits/dim with each kind of codes."""
        if not self._dims:
            return {}
        return {f"distortion_{kind}": nats / (self._dims * math.log(2)) for kind, nats in self._nats.items()}

    @staticmethod
    def protocol() -> dict[str, str]:
        """How each figure is defined."""
        return {
            "distortion_true": "-log2 p(x | its own codes) / dims, over the same items as the next two",
            "distortion_shuffled": f"the same with the codes of the item {APART} before, or of the first, "
            "repeated or cut to length",
            "distortion_none": "the same without codes, as code_dropout taught the decoder",
        }


def _fitted(codes: Int64[Tensor, "b g n *others"], length: int) -> Int64[Tensor, "b g _ *others"]:
    """Codes repeated or cut to a length on the first axis of their grid."""
    repeats = -(-length // codes.shape[2])
    return torch.cat([codes] * repeats, 2)[:, :, :length]
