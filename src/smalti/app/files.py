"""Read input files by path, and choose output names that do not collide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from smalti.app.data import report_skipped
from smalti.app.names import OutputNames
from smalti.core.errors import InputError
from smalti.data.codes import CodesInfo
from smalti.data.ingest import readable
from smalti.data.sources import UnreadableItem
from smalti.tokenizer import Tokenizer

COMPARISON = "comparison.png"
"""File name of the picture with originals above reconstructions."""


def read_files(tokenizer: Tokenizer, files: Sequence[Path]) -> tuple[list[str], list[Tensor]]:
    """Read files: names, and signals `(1, C, *size)` in the model's range, of all readable ones.

    Raises:
        InputError: when a file does not exist, or no file can be read.
    """
    names: list[str] = []
    signals: list[Tensor] = []
    skipped: list[dict[str, str]] = []
    for file in files:
        is_item = file.is_dir() and file.suffix.lower() in tokenizer.modality.extensions
        if not (is_item or file.is_file()):
            raise InputError(
                f"expected files of {tokenizer.modality.plural_name}, found none at {file}: check the path"
            )
        try:
            levels = torch.from_numpy(tokenizer.modality.decode(file))
            signals.append(tokenizer.modality.to_model(levels.unsqueeze(0)))
            names.append(file.name)
        except UnreadableItem as error:
            skipped.append({"name": readable(str(file)), "reason": readable(str(error))})
    report_skipped(skipped)
    if not signals:
        raise InputError(
            f"expected at least one readable file, none of {len(files)} is: {skipped[0]['reason']}"
        )
    return names, signals


def codes_info(tokenizer: Tokenizer) -> CodesInfo:
    """Return the header of a compact file for this tokenizer's codes."""
    return CodesInfo(
        grid=tokenizer.stored_code_shape[1:],
        num_codebooks=tokenizer.autoencoder.num_codebooks,
        num_codes=tokenizer.autoencoder.num_codes,
        model=tokenizer.fingerprint,
        classes=tokenizer.classes,
    )


def free_targets(out: Path, names: Iterable[str], ending: str) -> list[Path]:
    """Return a distinct file path below `out` for each name.

    Raises:
        InputError: when one of the files exists.
    """
    names = list(names)
    output = OutputNames()
    chosen: dict[str, list[str]] = {}
    # Files that already have the ending keep their names: a.avif beside a.png becomes a.avif.png.
    for name in sorted(names, key=lambda name: name != COMPARISON and not name.lower().endswith(ending)):
        target = output.choose(name, ".png" if name == COMPARISON else ending)
        chosen.setdefault(name, []).append(target)
    targets = [out / chosen[name].pop(0) for name in names]
    for target in targets:
        if target.exists():
            raise InputError(f"{target} exists already: choose another --out")
    return targets


def save_signal(tokenizer: Tokenizer, signal: Tensor, target: Path) -> None:
    """Write one signal in the model's range to a file; create missing parent folders."""
    target.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.modality.save(signal, target)
