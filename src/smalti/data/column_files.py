"""Columns of a store: read from its files, and collected item by item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np

from smalti.core.errors import InputError
from smalti.data.columns import Column, Columns, ColumnSpec, ColumnValue, fault_in


def read_column(directory: Path, spec: ColumnSpec, shape: tuple[int, ...]) -> Column:
    """Read a column whose file has the size of this shape.

    Raises:
        InputError: if an id has no name, or a value is not finite.
    """
    file = directory / spec.file_name
    data = np.fromfile(file, spec.dtype).reshape(shape)
    if spec.is_ids and (data.min() < -1 or data.max() >= len(spec.names)):
        raise InputError(
            f"{file} has an id outside -1..{len(spec.names) - 1}: it is damaged; delete {directory} and "
            "prepare it again"
        )
    if not spec.is_ids and not np.isfinite(data).all():
        raise InputError(
            f"{file} has values that are not finite: it is damaged; delete {directory} and prepare it again"
        )
    return Column(spec, data)


@final
class ColumnCollector:
    """Collects the columns of all items, and writes their files or returns them.

    Args:
        names: of the ids of columns, by column; the other columns number the names that occur, sorted.
        specs: of columns that are kept even if no item has them; their names are used too.
    """

    def __init__(
        self, names: Mapping[str, Sequence[str]] | None = None, specs: Sequence[ColumnSpec] = ()
    ) -> None:
        self._names = {**(names or {}), **{spec.name: spec.names for spec in specs}}
        self._specs = {spec.name: spec.changed({"names": ()}) for spec in specs}
        self._items: list[tuple[str, Columns, int]] = []

    def append(self, item: str, columns: Columns, num_frames: int | None) -> None:
        """Add the columns of an item.

        Args:
            item: its name.
            columns: its values.
            num_frames: its frames; None for an item without any.

        Raises:
            InputError: for values of another kind or width than those of earlier items, not one for each
                frame, or not finite.
        """
        for name, value in columns.items():
            spec = ColumnSpec.of(name, value)
            expected = self._specs.setdefault(name, spec)
            if spec != expected:
                raise InputError(
                    f"expected {expected} in the column {name}, as for earlier items, received {spec} for "
                    f"{item}: give all items values of one kind"
                )
        fault = fault_in(columns, num_frames)
        if fault is not None:
            raise InputError(
                f"expected finite values, one per item or per frame, received {item}, but {fault}: correct "
                "the column, or leave it out"
            )
        self._items.append((item, columns, num_frames or 0))

    def columns(self) -> dict[str, Column]:
        """Return the columns by name.

        Raises:
            InputError: as `write` does.
        """
        specs = [self._named(spec) for _, spec in sorted(self._specs.items())]
        return {spec.name: Column(spec, np.concatenate([*self._rows(spec)])) for spec in specs}

    def write(self, directory: Path) -> tuple[ColumnSpec, ...]:
        """Write a file for each column, and return their descriptions.

        Raises:
            InputError: for a name that is not among the given ones, or an item without a vector.
        """
        return tuple(self._write(directory, spec) for _, spec in sorted(self._specs.items()))

    def _write(self, directory: Path, spec: ColumnSpec) -> ColumnSpec:
        spec = self._named(spec)
        with (directory / spec.file_name).open("wb") as file:
            for rows in self._rows(spec):
                file.write(rows.tobytes())
        return spec

    def _named(self, spec: ColumnSpec) -> ColumnSpec:
        return spec.changed({"names": self._names_of(spec)})

    def _rows(self, spec: ColumnSpec) -> Iterator[np.ndarray]:
        """Yield the values of each item in a column."""
        ids: dict[str | None, int] = {name: number for number, name in enumerate(spec.names)}
        ids[None] = -1
        for item, columns, num_frames in self._items:
            value = columns.get(spec.name)
            if value is None and not spec.is_ids:
                raise InputError(
                    f"expected a vector in the column {spec.name} for every item, received none for "
                    f"{item}: complete the column, or leave it out"
                )
            yield _rows(spec, value, num_frames, ids)

    def _names_of(self, spec: ColumnSpec) -> tuple[str, ...]:
        """Names of the ids of a column, in order."""
        if not spec.is_ids:
            return ()
        values = (columns.get(spec.name) for _, columns, _ in self._items)
        given = {name for value in values for name in names_in(value) if name is not None}
        names = tuple(self._names.get(spec.name, sorted(given)))
        unknown = sorted(given.difference(names))
        if unknown:
            raise InputError(
                f"expected one of the {len(names)} known names in the column {spec.name}, received "
                f"{unknown[0]!r}: remove or rename it, or train with it"
            )
        return names


def names_in(value: ColumnValue | None) -> Sequence[str | None]:
    """Names of a value, one or one for each frame; none of vectors."""
    if value is None or isinstance(value, np.ndarray):
        return ()
    return (value,) if isinstance(value, str) else value


def _rows(
    spec: ColumnSpec, value: ColumnValue | None, num_frames: int, ids: Mapping[str | None, int]
) -> np.ndarray:
    """Rows of one item."""
    if isinstance(value, np.ndarray):
        return value.astype(np.float32)
    if value is None:
        return np.full(num_frames if spec.is_per_frame else 1, -1, np.int64)
    return np.array([ids[name] for name in names_in(value)], np.int64)
