"""`smalti reconstruct`: encode and decode files, and write a comparison with the originals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smalti.app.console import counting, note
from smalti.app.files import COMPARISON, free_targets, read_files, save_signal
from smalti.tokenizer import load


def reconstruct(run: str, files: Sequence[Path], out: Path, quiet: bool = False) -> int:
    """Write each file's reconstruction, and one picture with originals above reconstructions.

    Raises:
        InputError: when a file does not exist, no file can be read, or an output file exists.
    """
    tokenizer = load(run)
    names, originals = read_files(tokenizer, files)
    comparison, *targets = free_targets(out, [COMPARISON, *names], tokenizer.modality.ending)
    with counting("Reconstructing", quiet) as count:
        reconstructed = []
        for done, original in enumerate(originals, 1):
            reconstructed.append(tokenizer.through_codes(original))
            count(done, len(originals))
    for target, signal in zip(targets, reconstructed, strict=True):
        save_signal(tokenizer, signal, target)
    tokenizer.modality.preview(
        [[signal[0] for signal in originals[:64]], [signal[0] for signal in reconstructed[:64]]]
    ).save(comparison)
    note(f"{len(names)} reconstructions are in {out}; {COMPARISON} shows them below the originals.", quiet)
    return len(names)
