"""Decoded data on disk, memory-mapped: every item has the same shape, so that a batch is one gather.

Items may differ in the sides after their channels: in their length (time), or in height and width. Such
ragged items are stored with these axes first, so that a stretch of one is adjacent in the file. See
`store_layout` for the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int64

from smalti.core.errors import InputError
from smalti.core.files import atomic_directory
from smalti.data.column_files import read_column
from smalti.data.columns import Column, Columns
from smalti.data.store_layout import (
    Actions,
    Decoded,
    Shape,
    check_sizes,
    is_replaceable,
    num_open,
    read_index,
)
from smalti.data.store_writer import StoreWriter


@final
@dataclass(frozen=True, eq=False)
class Store:
    """Decoded items of one split of one source.

    Attributes:
        directory: location on disk.
        signals: `(count, *shape)`, a memory map of the items; of ragged items `(sum of lengths, *others)`,
            one row for each position along the sides in which they differ. Changes never reach the disk.
        labels: class id of each item; -1 for none.
        classes: class names, by id.
        skipped: items that could not be decoded, as {"name", "reason"}.
        source: description of the source.
        split: name of the split.
        protocol: settings of the decoding.
        lengths: number of rows of each ragged item, or None.
        sizes: of each item that differs in several sides, these sides; or None.
        action_names: names of the actions, by id.
        actions: action id at each row of the signals of ragged items, -1 for none; None if no item has any.
        columns: further conditions of the items, by name.
    """

    directory: Path
    signals: np.ndarray
    labels: Int64[np.ndarray, " count"]
    classes: tuple[str, ...]
    skipped: list[dict[str, str]]
    source: str
    split: str
    protocol: dict[str, Any]
    lengths: Int64[np.ndarray, " count"] | None = None
    action_names: tuple[str, ...] = ()
    actions: Int64[np.ndarray, " rows"] | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)
    sizes: Int64[np.ndarray, "count sides"] | None = None

    @property
    def count(self) -> int:
        """Number of items."""
        return len(self.labels)

    @property
    def shape(self) -> Shape:
        """Shape of one item; None for the sides in which items differ."""
        channels, *others = self.signals.shape[1:]
        return (channels, *(None,) * self.num_open, *others)

    @property
    def num_open(self) -> int:
        """Number of sides in which items differ."""
        if self.sizes is not None:
            return self.sizes.shape[1]
        return 0 if self.lengths is None else 1

    @property
    def open_sides(self) -> Int64[np.ndarray, "count sides"]:
        """Sides of each ragged item in which items differ."""
        assert self.lengths is not None
        return self.lengths[:, None] if self.sizes is None else self.sizes

    @cached_property
    def begins(self) -> Int64[np.ndarray, " count"]:
        """Row of `signals` at which each ragged item begins."""
        assert self.lengths is not None
        return np.cumsum(self.lengths) - self.lengths

    def item(self, index: int, size: Sequence[int] | None = None) -> np.ndarray:
        """One item, in its shape.

        Args:
            index: of the item.
            size: of the middle part to return, along the axes after the channels; None for all of the item.
        """
        if self.lengths is None:
            return self.signals[index]
        begin, sides = self.begins[index], self.open_sides[index].tolist()
        rows = self.signals[begin : begin + self.lengths[index]]
        whole = np.moveaxis(rows.reshape(*sides, *rows.shape[1:]), len(sides), 0)
        if size is None:
            return whole
        begins = [max(0, side - wanted) // 2 for side, wanted in zip(sides, size, strict=False)]
        return whole[(slice(None), *(slice(at, at + n) for at, n in zip(begins, size, strict=False)))]

    def actions_of(self, index: int) -> Actions | None:
        """Actions of a clip by name, or None if no item has any."""
        if self.actions is None or self.lengths is None:
            return None
        begin = self.begins[index]
        ids = self.actions[begin : begin + self.lengths[index]].tolist()
        return [self.action_names[number] if number >= 0 else None for number in ids]

    def columns_of(self, index: int) -> Columns:
        """Columns of an item by name, with values as its source gave them; without names that are missing."""
        values = {name: column.value(self._rows_of(column, index)) for name, column in self.columns.items()}
        return {name: value for name, value in values.items() if value is not None}

    def _rows_of(self, column: Column, index: int) -> slice:
        """Rows of a column that belong to an item."""
        if not column.spec.is_per_frame:
            return slice(index, index + 1)
        if self.lengths is None:
            num_frames = self.signals.shape[2]
            return slice(index * num_frames, (index + 1) * num_frames)
        return slice(int(self.begins[index]), int(self.begins[index] + self.lengths[index]))

    @property
    def condition_names(self) -> frozenset[str]:
        """Names of the conditions of its batches."""
        given = {"label": bool(self.classes), "action": self.actions is not None}
        return frozenset(self.columns) | {name for name, is_given in given.items() if is_given}

    @property
    def condition_sizes(self) -> dict[str, int]:
        """Number of ids of each id condition of its batches, by name."""
        named = {"label": self.classes, "action": self.action_names, **self.names_by_column}
        return {name: len(ids) for name, ids in named.items() if ids}

    @property
    def names_by_column(self) -> dict[str, tuple[str, ...]]:
        """Names of the ids of each column of ids."""
        return {name: each.spec.names for name, each in self.columns.items() if each.spec.is_ids}

    def with_names(self, names: Mapping[str, Sequence[str]]) -> Store:
        """Return the store with the ids of columns numbered as in another store.

        Args:
            names: of the ids, by column; names of this store that are not among them become -1.
        """
        known = {name: names.get(name, column.spec.names) for name, column in self.columns.items()}
        changed = {name: column.renumbered(known[name]) for name, column in self.columns.items()}
        return replace(self, columns=changed)

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements of an item."""
        return self.signals.dtype

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each item; read on first access."""
        with (self.directory / "names.txt").open(encoding="ascii") as lines:
            return tuple(json.loads(line) for line in lines)

    @classmethod
    def open(cls, directory: str | Path) -> Store:
        """Open a store; the signals are mapped, not read.

        Raises:
            InputError: if there is none, it is incomplete or damaged, or another version of smalti wrote it.
        """
        directory = Path(directory)
        index = read_index(directory)
        dtype = np.dtype(index.dtype)
        check_sizes(directory, index, {"labels.bin": index.count * 8, "names.txt": index.names_bytes})
        lengths = sizes = None
        if num_open(index.shape):
            check_sizes(directory, index, {"lengths.bin": index.count * 8})
            lengths = np.fromfile(directory / "lengths.bin", np.int64)
            if lengths.min() < 1:
                raise InputError(
                    f"{directory / 'lengths.bin'} names an item of length {lengths.min()}: "
                    f"it is damaged; delete {directory} and prepare it again"
                )
        if lengths is not None and (sides := num_open(index.shape)) > 1:
            check_sizes(directory, index, {"sizes.bin": index.count * sides * 8})
            sizes = np.fromfile(directory / "sizes.bin", np.int64).reshape(index.count, sides)
            if sizes.min() < 1 or (np.prod(sizes.astype(object), axis=1) != lengths).any():
                raise InputError(
                    f"{directory / 'sizes.bin'} disagrees with the lengths of the items: it is damaged; "
                    f"delete {directory} and prepare it again"
                )
        rows = index.count if lengths is None else sum(lengths.tolist())
        shape = (rows, *(side for side in index.shape if side is not None))
        check_sizes(directory, index, {"signals.bin": int(np.prod(shape, dtype=object)) * dtype.itemsize})
        labels = np.fromfile(directory / "labels.bin", np.int64)
        if labels.min() < -1 or labels.max() >= len(index.classes):
            raise InputError(
                f"{directory / 'labels.bin'} names a class outside -1..{len(index.classes) - 1}: "
                f"it is damaged; delete {directory} and prepare it again"
            )
        actions = None
        if index.actions:
            check_sizes(directory, index, {"actions.bin": rows * 8})
            actions = np.fromfile(directory / "actions.bin", np.int64)
            if actions.min() < -1 or actions.max() >= len(index.actions):
                raise InputError(
                    f"{directory / 'actions.bin'} names an action outside -1..{len(index.actions) - 1}: "
                    f"it is damaged; delete {directory} and prepare it again"
                )
        frames = rows if lengths is not None else int(np.prod(shape[:1] + shape[2:3], dtype=object))
        columns = {}
        for spec in index.columns:
            values = spec.shape(index.count, frames)
            num_bytes = int(np.prod(values, dtype=object)) * np.dtype(spec.dtype).itemsize
            check_sizes(directory, index, {spec.file_name: num_bytes})
            columns[spec.name] = read_column(directory, spec, values)
        return cls(
            directory=directory,
            # Copy on write: torch takes only writable arrays without a warning, and the file stays as it is.
            signals=np.memmap(directory / "signals.bin", dtype=dtype, mode="c", shape=shape),
            labels=labels,
            classes=index.classes,
            skipped=index.skipped,
            source=index.source,
            split=index.split,
            protocol=index.protocol,
            lengths=lengths,
            action_names=index.actions,
            actions=actions,
            columns=columns,
            sizes=sizes,
        )

    @classmethod
    def write(
        cls,
        directory: str | Path,
        decoded: Iterable[Decoded | tuple[str, np.ndarray, str | None]],
        shape: Sequence[int | None],
        dtype: np.dtype | type | str,
        *,
        classes: Sequence[str] | None = None,
        actions: Sequence[str] | None = None,
        column_names: Mapping[str, Sequence[str]] | None = None,
        skipped: list[dict[str, str]] | None = None,
        source: str = "",
        split: str = "all",
        protocol: dict[str, Any] | None = None,
    ) -> Store:
        """Write a store, replacing one that is there, and open it.

        Args:
            directory: location; must not exist, or hold nothing but a store.
            decoded: items, taken one by one; a tuple (name, array, class name or None) is an item without
                actions and columns.
            shape: of one item; the first sides after the channels are None if items differ in them.
            dtype: an integer or float type.
            classes: class names by id; None numbers the names that occur, sorted.
            actions: their names by id; None numbers those that occur, sorted.
            column_names: names of the ids of columns, by column; others number those that occur, sorted.
            skipped: items that could not be decoded; read after the last item, so `decoded` may add to it.
            source: description of the source.
            split: name of the split.
            protocol: settings of the decoding, as plain JSON values.

        Raises:
            InputError: if there are no items, an item has another shape, an unknown class or action, or
                actions or columns that do not fit its frames, the disk is full or not writable, or the
                directory holds something else.
        """
        directory = Path(directory)
        if not is_replaceable(directory):
            raise InputError(
                f"{directory} holds something else than prepared data, so it is not replaced: choose another "
                "directory"
            )
        with atomic_directory(directory, replace=True) as temporary:
            names = (classes, actions, column_names)
            with StoreWriter(temporary, tuple(shape), np.dtype(dtype), *names) as writer:
                for item in decoded:
                    writer.append(item if isinstance(item, Decoded) else Decoded(*item))
                if not writer.count:
                    raise InputError(
                        f"there are no items to write to {directory}: check the source and its split"
                    )
                writer.finish(skipped=skipped or [], source=source, split=split, protocol=protocol or {})
            # Opened before it is moved, after which another process may replace it.
            return replace(cls.open(temporary), directory=directory)
