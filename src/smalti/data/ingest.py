"""Decode a split of a source into a store with several threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from smalti.core.errors import InputError
from smalti.data.columns import Columns, ColumnValue, fault_in
from smalti.data.sources.base import Item, Source, UnreadableItem
from smalti.data.store import Store
from smalti.data.store_layout import Decoded, Shape

WINDOW = 4
"""Minimum number of items decoded ahead per worker, so that all stay busy. A single worker decodes none
ahead."""
AHEAD_BYTES = 64 * 2**20
"""Memory budget, in bytes, for the items decoded ahead (encoded and decoded sizes together)."""


def no_warnings(item: np.ndarray) -> list[str]:
    """Default: no warnings."""
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
    """Decode one split of a source into a store with several threads, in the source's order.

    Items that cannot be read are left out and listed in `Store.skipped`.

    Args:
        directory: directory of the new store.
        source: source of the items.
        split: name of the split to decode.
        decode: turns `Item.content` into an array of `shape`; raises `UnreadableItem`.
        protocol: description of `decode`, as plain JSON values.
        shape: shape of the decoded items; None after the channels if items differ in that side.
        dtype: type of the decoded items.
        progress: called with the number of items done, including unreadable ones, and the total.
        workers: number of threads; None uses one per core, at most 16.
        warnings: returns the warnings about a decoded item, as text.
        items_by_warning: receives the names of the items with each warning, by its text before any colon.
        classes: class names by id, for a split that must agree with another; None numbers the sorted names.

    Raises:
        InputError: if no item can be read, or as `Store.write` does.
    """
    skipped: list[dict[str, str]] = []
    items_by_warning = {} if items_by_warning is None else items_by_warning
    total = source.count(split)

    def decoded() -> Iterator[Decoded]:
        done = 0
        for item, read in decode_ahead(source.items(split), decode, workers):
            result = checked(item, read)
            if isinstance(result, UnreadableItem):
                skipped.append({"name": readable(item.name), "reason": readable(str(result))})
            else:
                for text in warnings(result):
                    items_by_warning.setdefault(text.split(":")[0], []).append(readable(item.name))
                yield decoded_item(item, result)
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


def checked(item: Item, read: Any) -> Any:
    """Return the decoded item, or `UnreadableItem` if its actions or columns do not fit its frames."""
    if isinstance(read, UnreadableItem):
        return read
    if item.actions is not None and read.shape[1] != len(item.actions):
        return UnreadableItem(
            f"it has {len(item.actions)} actions for {read.shape[1]} frames; set data.frame_rate_hz=none and "
            "give one action per frame"
        )
    fault = fault_in(item.columns, read.shape[1] if read.ndim > 1 else None)
    return read if fault is None else UnreadableItem(fault)


def decoded_item(item: Item, array: np.ndarray) -> Decoded:
    """The item of a store for a decoded item of a source."""
    label = None if item.label is None else readable(item.label)
    return Decoded(readable(item.name), array, label, item.actions, readable_columns(item.columns))


def decode_ahead(
    items: Iterable[Item],
    decode: Callable[[Any], Any],
    workers: int | None = None,
    batch: int = 1,
) -> Iterator[tuple[Item, Any]]:
    """Yield each item with its decoded value, or the `UnreadableItem` that `decode` raised, in order.

    With two or more workers, threads decode the next items while the caller uses the current one.

    Args:
        items: items to decode.
        decode: applied to each `Item.content`.
        workers: number of threads; None uses one per core, at most 16.
        batch: number of items that the caller uses together; as many more may be decoded ahead.
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
    """Return the memory that an encoded or decoded item takes, in bytes."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value) if isinstance(value, bytes) else 0


def readable(text: str) -> str:
    """Escape what is not valid Unicode: file names may hold it, JSON and Parquet may not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def readable_columns(columns: Columns) -> Columns:
    """Apply `readable` to the names in columns."""
    return {name: _readable_value(value) for name, value in columns.items()}


def _readable_value(value: ColumnValue) -> ColumnValue:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str):
        return readable(value)
    return tuple(None if name is None else readable(name) for name in value)
