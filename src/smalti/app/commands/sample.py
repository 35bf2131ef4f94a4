"""`smalti sample`: generate pictures, sounds or clips with a run's learned prior."""

from __future__ import annotations

from pathlib import Path

import torch

from smalti.app.console import counting, note
from smalti.app.files import codes_info
from smalti.core.errors import InputError
from smalti.data.codes import write_codes
from smalti.tokenizer import load
from smalti.trained import LEARNED

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

    Raises:
        InputError: when the run has no learned prior, the class is unknown, or a setting is out of range.
    """
    if num < 1:
        raise InputError(f"expected --num of at least 1, received {num}")
    tokenizer = load(run)
    with counting("Sampling", quiet) as count:
        codes = tokenizer.sample_codes(
            num,
            class_name,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            prior=prior,
            progress=count,
            length=length,
        )
    with counting("Decoding", quiet) as count:
        signals = []
        decoder_class = class_name if tokenizer.autoencoder.num_label_classes else None
        for begin in range(0, num, BATCH):
            part = codes[begin : begin + BATCH]
            signals.append(tokenizer.decode_signals(part, class_name=decoder_class, seed=seed + begin))
            count(begin + len(part), num)
    drawn = torch.cat(signals)
    out.mkdir(parents=True, exist_ok=True)
    ending, items = tokenizer.modality.ending, tokenizer.modality.plural_name
    names = [f"{index:05d}{ending}" for index in range(num)]
    for name, signal in zip(names, drawn, strict=True):
        tokenizer.modality.save(signal, out / name)
    tokenizer.modality.preview([drawn[:64]]).save(out / "samples.png")
    write_codes(out / "codes.parquet", codes_info(tokenizer), [(names, codes.numpy(), [class_name] * num)])
    note(f"{num} {items} are in {out}, with an overview in samples.png and codes in codes.parquet.", quiet)
    return num
