"""`smalti sample`: new pictures from a run's learned prior."""

from __future__ import annotations

from pathlib import Path

from smalti.data.codes import write_codes
from smalti.interfaces import InputError
from smalti.tokenizer import load
from smalti.trained import LEARNED
from smalti.verbs.codes import codes_info
from smalti.verbs.console import counting, note


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
) -> int:
    """Write `num` new pictures, all of them in one picture, and their codes; gives their number.

    Raises:
        InputError: when there is no learned prior, no such class, or a setting is out of range.
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
        )
    pictures = tokenizer.decode(codes)
    out.mkdir(parents=True, exist_ok=True)
    names = [f"{index:05d}.png" for index in range(num)]
    for name, picture in zip(names, pictures, strict=True):
        tokenizer.modality.save(picture, out / name)
    tokenizer.modality.preview([pictures[:64]]).save(out / "samples.png")
    write_codes(out / "codes.parquet", codes_info(tokenizer), [(names, codes.numpy(), [class_name] * num)])
    note(f"{num} pictures are in {out}, all together in samples.png, their codes in codes.parquet.", quiet)
    return num
