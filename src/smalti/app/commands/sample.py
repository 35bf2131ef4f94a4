"""`smalti sample`: generate pictures, sounds or clips with a run's learned prior."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.app.console import amount, counting, note
from smalti.app.files import prior_fingerprint, write_table
from smalti.app.outputs import OutputFolder
from smalti.core.errors import InputError
from smalti.data.codes import read_codes
from smalti.stored_priors import LEARNED
from smalti.tokenizer import load

BATCH = 64
"""Items decoded per batch; for decoders that sample, it affects the results of a seed."""


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
) -> int:
    """Generate `num` items, write them with an overview picture and their codes, and return `num`.

    The same command completes a stopped one.

    Raises:
        InputError: when the run has no learned prior, the class is unknown, a setting is out of range, or an
            output file of another command exists.
    """
    if num < 1:
        raise InputError(f"expected --num of at least 1, received {num}")
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
        **settings,
    )
    folder.check([table, overview, *(out / name for name in names)])
    if table.exists():
        codes = torch.cat([torch.tensor(batch) for _, batch, *_ in read_codes(table)[1]])
    else:
        with counting("Sampling", quiet) as count:
            codes = tokenizer.sample_codes(
                num, class_name, prior=prior, progress=count, length=length, **settings
            )
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
