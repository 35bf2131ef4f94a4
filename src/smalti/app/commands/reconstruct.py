"""`smalti reconstruct`: encode and decode files, and write a comparison with the originals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.app.console import amount, counting, note
from smalti.app.data import report_skipped
from smalti.app.files import items_of, signal_of, stamp
from smalti.app.native import Size, at_size
from smalti.app.outputs import COMPARISON, OutputFolder, output_paths
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.data.arrivals import joined
from smalti.data.ingest import readable
from smalti.data.sources import UnreadableItem
from smalti.data.sources.base import Content
from smalti.streaming import is_local
from smalti.tokenizer import Tokenizer

COMPARED = 64
"""Maximum number of items in the comparison."""
SHOWN_VALUES = 1 << 20
"""Values of a long recording or clip in the comparison, which shows its beginning."""
LEAST_SHOWN = 8
"""Least number of positions along time of that beginning."""


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
                    pair = _by_blocks(tokenizer, item.content, folder, target)
                    if pair is None:
                        signal = signal_of(modality, item.content)
                        pair = signal, tokenizer.through_codes(signal)
                        folder.save(target, partial(modality.save, pair[1]))
                    if len(originals) < COMPARED:
                        originals.append(pair[0][0])
                        reconstructed.append(pair[1][0])
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
    shown = "the original above it" if num == 1 else "the originals above them"
    note(f"{out} holds {amount(num, 'reconstructions')}; {COMPARISON} shows {shown}.", quiet)
    return num


def _by_blocks(
    tokenizer: Tokenizer, content: Content, folder: OutputFolder, target: Path
) -> tuple[Tensor, Tensor] | None:
    """Reconstruct a long recording or clip while it is read and written, in bounded memory.

    Returns:
        The beginnings of the signal and of its reconstruction; None if it is short, or has to be whole.

    Raises:
        UnreadableItem: if it cannot be read.
    """
    modality = tokenizer.modality
    if not (tokenizer.has_blocks and is_local(tokenizer.autoencoder)):
        return None
    blocks, again = modality.blocks(content), modality.blocks(content)
    if blocks is None or again is None:
        return None
    original, reconstruction = _Beginning(), _Beginning()
    made = reconstruction.of(_readable(tokenizer.reconstruct_blocks(joined(blocks))))
    if not target.exists():
        folder.save(target, lambda path: modality.save_blocks(made, path))
    for shown, rest in ((reconstruction, made), (original, original.of(_readable(_signal(modality, again))))):
        while not shown.is_full and next(rest, None) is not None:
            pass
    return original.signal, reconstruction.signal


def _readable(blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield blocks; a signal that cannot be encoded is an unreadable item."""
    try:
        yield from blocks
    except InputError as error:
        raise UnreadableItem(str(error)) from error


def _signal(modality: Modality, blocks: Iterable[Any]) -> Iterator[Tensor]:
    """Convert the blocks of a file to those of its signal."""
    stream = modality.stream()
    for block in blocks:
        yield stream.push(block)
    yield stream.flush()


class _Beginning:
    """Keeps the beginning of a signal that passes in blocks, for the comparison."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._missing: int | None = None

    def of(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the blocks `(1, C, n, *size)`."""
        for block in blocks:
            if self._missing is None and block.numel():
                self._missing = max(LEAST_SHOWN, SHOWN_VALUES * block.shape[2] // block.numel())
            if self._missing:
                self._kept.append(block[:, :, : self._missing].clone())
                self._missing -= self._kept[-1].shape[2]
            yield block

    @property
    def is_full(self) -> bool:
        """True if no further block is needed."""
        return self._missing == 0

    @property
    def signal(self) -> Tensor:
        """The beginning, `(1, C, n, *size)`."""
        return torch.cat(self._kept, 2)
