"""A split of a source, decoded by several threads into a store."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from smalti.core.errors import InputError
from smalti.data.sources.base import Item, Source, UnreadableItem
from smalti.data.store import Decoded, Shape, Store

WINDOW = 4
"""Items decoded ahead for each of several workers, at least: enough to keep them busy. One worker decodes
none ahead."""
AHEAD_BYTES = 64 * 2**20
"""What items may take, encoded and decoded, for as many as a batch to be decoded ahead while one is used."""


def no_warnings(item: np.ndarray) -> list[str]:
    """The default: no warnings about an item."""
    return []


def build_store(
    directory: str | Path,
    source: Source,
    split: str,
    decode: Callable[[Any], np.ndarray],
    protocol: dict[str, Any],
    shape: Shape,
    dtype: np.dtype,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    warnings: Callable[[np.ndarray], list[str]] = no_warnings,
    items_by_warning: dict[str, list[str]] | None = None,
    classes: Sequence[str] | None = None,
) -> Store:
    """Decode one split of a source into a store, by several threads, in the source's order.

    An item that cannot be read is left out and listed in `Store.skipped`.

    Args:
        directory: where the store goes.
        source: where the items come from.
        split: which of its splits.
        decode: `Item.content` -> array of this shape; raises `UnreadableItem`.
        protocol: what `decode` does, as plain JSON values.
        shape: of the decoded items; None as the side after the channels where they differ in it.
        dtype: of the decoded items.
        progress: called with the items done, unreadable ones too, and the number of all.
        workers: threads; None for one a core, at most 16.
        warnings: what a user should know about a decoded item, in words.
        items_by_warning: receives the names of the items with each warning, by its text before any colon.
        classes: class names by id, for a split that must agree with another; None numbers them, sorted.

    Raises:
        InputError: when no item can be read, and as `Store.write` does.
    """
    skipped: list[dict[str, str]] = []
    items_by_warning = {} if items_by_warning is None else items_by_warning
    total = source.count(split)

    def decoded() -> Iterator[Decoded]:
        done = 0
        for item, read in decode_ahead(source.items(split), decode, workers):
            result = _with_actions(item, read)
            if isinstance(result, UnreadableItem):
                skipped.append({"name": readable(item.name), "reason": readable(str(result))})
            else:
                for text in warnings(result):
                    items_by_warning.setdefault(text.split(":")[0], []).append(readable(item.name))
                label = None if item.label is None else readable(item.label)
                yield Decoded(readable(item.name), result, label, item.actions)
            done += 1
            if progress is not None:
                progress(done, total)
        if done == 0:
            raise InputError(
                f'the split "{split}" of {source.description} has no items: check the path and the split'
            )
        if done == len(skipped):
            first = skipped[0]
            raise InputError(
                f'none of the {done} items of {source.description}, split "{split}", can be read '
                f"(the first, {first['name']}: {first['reason']}): check the files and the modality"
            )

    return Store.write(
        directory,
        decoded(),
        shape,
        dtype,
        classes=classes,
        skipped=skipped,
        source=source.description,
        split=split,
        protocol=protocol,
    )


def _with_actions(item: Item, read: Any) -> Any:
    """What was read, unless it is a clip whose actions are not those of its frames."""
    if item.actions is None or isinstance(read, UnreadableItem) or read.shape[1] == len(item.actions):
        return read
    return UnreadableItem(
        f"it has {len(item.actions)} actions for {read.shape[1]} frames; each frame as it comes "
        "(data.frame_rate_hz=none) needs one"
    )


def decode_ahead(
    items: Iterable[Item],
    decode: Callable[[Any], Any],
    workers: int | None = None,
    batch: int = 1,
) -> Iterator[tuple[Item, Any]]:
    """Each item with what `decode` made of it, or the `UnreadableItem` that it raised, in order.

    Threads decode the next ones meanwhile, unless there is but one.

    Args:
        items: to decode.
        decode: `Item.content` to what is wanted of it.
        workers: threads; None for one a core, at most 16.
        batch: items of one shape that are used together, so that as many may be wanted at once.
    """

    def attempt(content: Any) -> Any:
        try:
            return decode(content)
        except UnreadableItem as error:
            return error

    workers = workers or min(16, os.cpu_count() or 1)
    least = ahead = WINDOW * workers if workers > 1 else 1
    most = least if batch == 1 or workers == 1 else least + batch
    largest = 1
    window: deque[tuple[Item, Future[Any]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for item in items:
            window.append((item, pool.submit(attempt, item.content)))
            while len(window) >= ahead:
                first, future = window.popleft()
                result = future.result()
                largest = max(largest, _nbytes(first.content) + _nbytes(result))
                ahead = max(least, min(most, AHEAD_BYTES // largest))
                yield first, result
        while window:
            first, future = window.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _nbytes(value: Any) -> int:
    """What an item takes that is kept in memory, before or after it is decoded."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value) if isinstance(value, bytes) else 0


def readable(text: str) -> str:
    """Valid Unicode: file names need not be, but JSON and Parquet must."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
