"""Items of a source as they are decoded: at once, or, if they are long, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.data.columns import Columns
from smalti.data.ingest import decode_ahead, readable, readable_columns
from smalti.data.sources.base import Source, UnreadableItem
from smalti.data.store_layout import Actions, Decoded

BLOCK_VALUES = 1 << 20
"""Least number of values of a long item that are encoded together."""


@final
@dataclass(frozen=True)
class Arriving:
    """A long item of a source, which is decoded while it is used.

    Attributes:
        name, label, actions, columns: as of a `Decoded` item.
        blocks: of the item, see `Modality.blocks`.
    """

    name: str
    blocks: Iterator[Any]
    label: str | None
    actions: Actions | None
    columns: Columns


def decoded_items(
    modality: Modality,
    source: Source,
    split: str,
    batch_size: int,
    skipped: list[dict[str, str]],
    arrives: bool,
) -> Iterator[Decoded | Arriving]:
    """Yield the readable items of a source, decoded ahead.

    Args:
        modality: of the items.
        source: of the items.
        split: of the source.
        batch_size: number of items that are used together.
        skipped: list to which {"name", "reason"} of each unreadable item is appended.
        arrives: whether long items may be decoded block by block.

    Raises:
        InputError: if no item can be read.
    """

    def decode(content: Any) -> np.ndarray | Iterator[Any]:
        blocks = modality.blocks(content) if arrives else None
        return modality.decode(content) if blocks is None else blocks

    ahead = 1 if modality.is_ragged else batch_size
    done = 0
    for item, read in decode_ahead(source.items(split), decode, modality.readers, ahead):
        done += 1
        if isinstance(read, UnreadableItem):
            skipped.append({"name": readable(item.name), "reason": readable(str(read))})
        else:
            label = None if item.label is None else readable(item.label)
            others = (label, item.actions, readable_columns(item.columns))
            name = readable(item.name)
            is_whole = isinstance(read, np.ndarray)
            yield Decoded(name, read, *others) if is_whole else Arriving(name, read, *others)
    if skipped and len(skipped) == done:
        raise InputError(
            f"none of the {done} items of {source.description} can be read (the first, "
            f"{skipped[0]['name']}: {skipped[0]['reason']}): check the files"
        )


def joined(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Join consecutive blocks to at least `BLOCK_VALUES`, so that most calls have no unused windows."""
    kept: list[np.ndarray] = []
    for block in blocks:
        kept.append(block)
        if sum(each.size for each in kept) >= BLOCK_VALUES:
            yield np.concatenate(kept, -1)
            kept = []
    if sum(each.size for each in kept):
        yield np.concatenate(kept, -1)


@final
class ItemCounter:
    """Reports the number of processed items, including unreadable ones."""

    def __init__(
        self, total: int, skipped: Sequence[object], report: Callable[[int, int], None] | None
    ) -> None:
        self._total, self._skipped, self._report, self._done = total, skipped, report, 0

    def add(self, num: int) -> None:
        self._done += num
        if self._report is not None:
            self._report(min(self._total, self._done + len(self._skipped)), self._total)

    def each(self, items: Iterable[Decoded]) -> Iterator[Decoded]:
        for item in items:
            yield item
            self.add(1)


def part_of(report: Callable[[int, int], None] | None, part: int) -> Callable[[int, int], None] | None:
    """Map the progress of one of two passes over the items to progress over both."""
    if report is None:
        return None
    return lambda done, total: report(part * total + done, 2 * total)
