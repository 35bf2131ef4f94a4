"""`smalti reconstruct`: encode and decode files, and write a comparison with the originals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from smalti.app.console import amount, counting, note
from smalti.app.data import report_skipped
from smalti.app.files import items_of, signal_of, stamp
from smalti.app.native import Size, at_size
from smalti.app.outputs import COMPARISON, OutputFolder, output_paths
from smalti.core.errors import InputError
from smalti.data.ingest import readable
from smalti.data.sources import UnreadableItem
from smalti.tokenizer import Tokenizer

COMPARED = 64
"""Maximum number of items in the comparison."""


def reconstruct(
    run: str, files: Sequence[Path], out: Path, quiet: bool = False, size: Size | None = None
) -> int:
    """Write each item's reconstruction, and one picture with originals above reconstructions.

    The same command completes a stopped one.

    Args:
        run: a run's directory, or a name on the Hub.
        files: files, or folders of files.
        out: output directory.
        quiet: hide progress.
        size: "native" keeps the height and width of pictures and clips; "model" brings them to the size of
            the training; None is "native" where the model takes any size.

    Returns:
        The number of reconstructions.

    Raises:
        InputError: when a file does not exist, no file can be read, or an output file of another command
            exists.
    """
    tokenizer = at_size(Tokenizer.from_pretrained(run, load_priors=False), size)
    modality = tokenizer.modality
    items = list(items_of(modality, files))
    names = [readable(item.name) for item in items]
    comparison, *targets = output_paths(out, [COMPARISON, *names], modality.ending)
    folder = OutputFolder(out, "reconstruct", model=tokenizer.fingerprint, files=stamp(items), size=size)
    folder.check([comparison, *targets])
    skipped: list[dict[str, str]] = []
    originals: list[Tensor] = []
    reconstructed: list[Tensor] = []
    with counting("Reconstructing", quiet) as count:
        for done, (item, name, target) in enumerate(zip(items, names, targets, strict=True), 1):
            if len(originals) < COMPARED or not target.exists():
                try:
                    signal = signal_of(modality, item.content)
                    again = tokenizer.through_codes(signal)
                    folder.save(target, partial(modality.save, again))
                    if len(originals) < COMPARED:
                        originals.append(signal[0])
                        reconstructed.append(again[0])
                except UnreadableItem as error:
                    skipped.append({"name": name, "reason": readable(str(error))})
            count(done, len(items))
    report_skipped(skipped)
    if not originals:
        raise InputError(
            f"expected at least one readable file, none of {len(items)} is: {skipped[0]['reason']}"
        )
    folder.save(comparison, modality.preview([originals, reconstructed]).save)
    num = len(items) - len(skipped)
    note(f"{out} holds {amount(num, 'reconstructions')}; {COMPARISON} shows the originals above them.", quiet)
    return num
