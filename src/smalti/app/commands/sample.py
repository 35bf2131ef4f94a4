"""`smalti sample`: generate pictures, sounds or clips with a run's learned prior."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smalti.app.console import amount, counting, note
from smalti.app.files import prior_fingerprint, write_table
from smalti.app.outputs import OutputFolder
from smalti.core.errors import InputError
from smalti.core.precision import full_precision
from smalti.data.codes import read_codes
from smalti.data.manifest import checksum
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.image.modality import ImageModality
from smalti.priors.draws import Progress, draw_in_batches
from smalti.stored_priors import LEARNED
from smalti.tokenizer import Tokenizer, load

BATCH = 64
"""Items decoded per batch; for decoders that sample, it affects the results of a seed."""
CAUSAL = (
    "This prior draws each code given those before it only, so a hole need not fit what follows it; a masked "
    "prior (kind=masked) sees all codes that are kept."
)
BRIGHT = 128
"""Grey level (0 to 255) from which a code is kept."""


def sample(
    run: str,
    num: int,
    out: Path,
    class_name: str | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    quiet: bool = False,
    prior: str = LEARNED,
    length: int | None = None,
    guidance: float = 1.0,
    picture: Path | None = None,
    keep: Path | None = None,
) -> int:
    """Generate `num` items, write them with an overview picture and their codes, and return `num`.

    The same command completes a stopped one.

    Args:
        picture: whose codes are kept where the mask `keep` is bright, see `kept_codes`; None for new items.
        keep: picture of the mask.

    Raises:
        InputError: when the run has no learned prior, the class is unknown, a setting is out of range, an
            output file of another command exists, or only one of `picture` and `keep` is given.
    """
    if num < 1:
        raise InputError(f"expected --num of at least 1, received {num}")
    for given in (picture, keep):
        if given is not None and not given.is_file():
            raise InputError(f"expected a picture, found no file {given}: correct the name")
    if keep is not None and length is not None:
        raise InputError(f"expected no --length together with --keep, received {length}: leave it out")
    if (picture is None) != (keep is None):
        raise InputError(
            "expected --input FILE together with --keep MASK, received one of them: add the other"
        )
    tokenizer = load(run)
    modality = tokenizer.modality
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    names = [f"{index:05d}{modality.ending}" for index in range(num)]
    table, overview = out / "codes.parquet", out / "samples.png"
    folder = OutputFolder(
        out,
        "sample",
        model=tokenizer.fingerprint,
        prior=prior_fingerprint(tokenizer, prior),
        num=num,
        class_name=class_name,
        length=length,
        **({} if guidance == 1 else {"guidance": guidance}),
        **({} if picture is None or keep is None else {"input": checksum(picture), "keep": checksum(keep)}),
        **settings,
    )
    folder.check([table, overview, *(out / name for name in names)])
    if table.exists():
        codes = torch.cat([torch.tensor(batch) for _, batch, *_ in read_codes(table)[1]])
    else:
        with counting("Sampling", quiet) as count:
            if picture is not None and keep is not None:
                kept = kept_codes(tokenizer, picture, keep)
                if tokenizer.trained.chosen_prior(prior).is_causal:
                    note(CAUSAL, quiet)
                codes = inpainted(tokenizer, prior, num, class_name, kept, guidance, count, **settings)
            else:
                settings |= {"prior": prior, "progress": count, "length": length, "guidance": guidance}
                codes = tokenizer.sample_codes(num, class_name, **settings)
        write_table(folder, table, tokenizer, names, codes, class_name)
    shown: list[Tensor] = []
    with counting("Decoding", quiet) as count:
        decoder_class = class_name if tokenizer.autoencoder.num_label_classes else None
        for begin in range(0, num, BATCH):
            part = range(begin, min(begin + BATCH, num))
            if not shown or not all((out / names[index]).exists() for index in part):
                signals = tokenizer.decode_signals(
                    codes[part.start : part.stop], class_name=decoder_class, seed=seed + begin
                )
                shown = shown or [signals]
                for index, signal in zip(part, signals, strict=True):
                    folder.save(out / names[index], partial(modality.save, signal))
            count(part.stop, num)
    folder.save(overview, modality.preview([shown[0][:64]]).save)
    items = amount(num, modality.plural_name)
    note(f"{out} holds {items}, with an overview in samples.png and codes in codes.parquet.", quiet)
    return num


def kept_codes(tokenizer: Tokenizer, picture: Path, mask: Path) -> tuple[Tensor, Tensor]:
    """Codes of a picture, int64 `(1, G, *grid)`, and which of them to keep, bool of the same shape.

    Args:
        tokenizer: of pictures.
        picture: file of a picture.
        mask: file of a picture of the same shape, in any size: where its mean over the pixels of a code is at
            least half of white, the code is kept.

    Raises:
        InputError: if a file cannot be read, or the model is none of pictures with a code at each position.
    """
    model, modality = tokenizer.autoencoder, tokenizer.modality
    if not (isinstance(modality, ImageModality) and getattr(model.quantizer, "is_per_position", False)):
        raise InputError(
            f"expected a model with a code at each position of pictures for --keep, received {model.title} "
            f"of {modality.plural_name}: use Prior.inpaint in Python, or leave --keep out"
        )
    codes = tokenizer.encode(picture)
    # Scaled and cropped as the model's pictures are.
    settings = {"channels": 1, "background": "black", "range": "full"}
    try:
        read = modality.config.model_copy(update=settings).read(mask, modality.fit)
    except UnreadableItem as error:
        raise InputError(
            f"expected a picture as the mask --keep, received {mask} ({error}): pass a file such as a PNG"
        ) from None
    grey = Image.fromarray(read[0]).resize(codes.shape[:1:-1], Image.Resampling.BOX)
    keep = torch.from_numpy(np.asarray(grey) >= BRIGHT)
    return codes, keep.expand_as(codes)


def inpainted(
    tokenizer: Tokenizer,
    prior: str,
    num: int,
    class_name: str | None,
    kept: tuple[Tensor, Tensor],
    guidance: float,
    progress: Progress,
    seed: int,
    **settings: Any,
) -> Tensor:
    """Draw `num` grids that agree with the kept codes; see `Prior.inpaint` for the settings."""
    chosen = tokenizer.trained.chosen_prior(prior)
    conditions = tokenizer.trained.prior_conditions(chosen, num, class_name, None).to(tokenizer.device)
    codes, keep = (each.to(tokenizer.device) for each in kept)

    @full_precision(chosen)
    def draw(items: slice, generator: torch.Generator, progress: Progress | None) -> Tensor:
        size, own = items.stop - items.start, conditions.part(items)
        grids, kept = (each.expand(size, *each.shape[1:]) for each in (codes, keep))
        settings_of_draw = {"generator": generator, "guidance": guidance, "progress": progress}
        return chosen.inpaint(grids, kept, own, **settings_of_draw, **settings)

    return draw_in_batches(draw, num, BATCH, seed, progress)
