"""Layout of a store on disk: its files, its index, and the checks before anything is read.

A store is a directory: `index.json` (what it is), `signals.bin` (items one after another), `labels.bin`
(int64), `lengths.bin` of ragged items (int64 numbers of rows), `sizes.bin` of items that differ in several
sides (int64), `actions.bin` of clips with actions (int64, one per frame),
`column-NAME.bin` for each further condition (int64 ids or float32 vectors, one per item or per frame), and
`names.txt` (one JSON string per line).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import NonNegativeInt, PositiveInt, ValidationError

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.metadata import parse_json
from smalti.data.columns import FILE_NAME, NO_COLUMNS, Columns, ColumnSpec

FORMAT = 3
"""Version of the layout; a store of another version is prepared again."""

FILES = frozenset(
    {"index.json", "signals.bin", "labels.bin", "lengths.bin", "sizes.bin", "actions.bin", "names.txt"}
)

Shape = tuple[int | None, ...]
"""Shape of an item, channels first; the first sides after them are None if items differ in them."""


Actions = Sequence[str | None]
"""Action at each frame of a clip, by name; None where it is not known."""


class Decoded(NamedTuple):
    """One item to write.

    Attributes:
        name: of the item.
        array: its values.
        label: class name, or None.
        actions: of a clip, one per frame; or None.
        columns: further conditions, by name.
    """

    name: str
    array: np.ndarray
    label: str | None = None
    actions: Actions | None = None
    columns: Columns = NO_COLUMNS


class Index(Configuration):
    """Content of `index.json`."""

    format: PositiveInt
    count: PositiveInt
    shape: tuple[PositiveInt | None, ...]
    dtype: str
    names_bytes: NonNegativeInt
    classes: tuple[str, ...]
    actions: tuple[str, ...]
    columns: tuple[ColumnSpec, ...]
    skipped: list[dict[str, str]]
    source: str
    split: str
    protocol: dict[str, Any]


def num_open(shape: Shape) -> int:
    """Return the number of sides in which items differ; they follow the channels."""
    return shape.count(None)


def read_index(directory: Path) -> Index:
    """Read and check the index.

    Raises:
        InputError: if there is none, it is damaged, or another version of smalti wrote it.
    """
    file = directory / "index.json"
    if not file.is_file():
        raise InputError(f"{directory} holds no prepared data (there is no index.json): check the path")
    try:
        content = parse_json(file.read_bytes())
    except (ValueError, OSError) as error:
        raise InputError(
            f"{file} is damaged or unreadable: delete {directory} and prepare it again"
        ) from error
    version = content.get("format") if isinstance(content, dict) else None
    # Before all else, since a newer index may have other keys.
    if isinstance(version, int) and version > FORMAT:
        raise InputError(
            f"{directory} was written by a newer version of smalti (format {version}; "
            f"this one reads up to {FORMAT}): run pip install -U smalti, or prepare the data again"
        )
    if isinstance(version, int) and 0 < version < FORMAT:
        raise InputError(
            f"{directory} was prepared by an older version of smalti (format {version}; this one reads "
            f"{FORMAT}): delete {directory} and prepare the data again"
        )
    try:
        index = Index.model_validate(content)
        fixed = (*index.shape[:1], *index.shape[1 + num_open(index.shape) :])
        if np.dtype(index.dtype).kind not in "iuf" or None in fixed:
            raise TypeError(index.dtype)
        if len({spec.name for spec in index.columns}) < len(index.columns):
            raise TypeError(index.columns)
    except (ValidationError, TypeError) as error:
        raise InputError(f"{file} is damaged: delete {directory} and prepare it again") from error
    return index


def check_sizes(directory: Path, index: Index, expected_bytes: dict[str, int]) -> None:
    """Compare the sizes of files, by name, with those that the index implies.

    Raises:
        InputError: if one differs.
    """
    for name, expected in expected_bytes.items():
        file = directory / name
        received = file.stat().st_size if file.is_file() else 0
        if received != expected:
            raise InputError(
                f"{file} should hold {expected} bytes for {index.count} items but holds {received}: "
                f"the data was not written to its end; delete {directory} and prepare it again"
            )


def is_replaceable(directory: Path) -> bool:
    """Return True if the directory holds nothing but a store, or part of one."""
    try:
        return all(name in FILES or FILE_NAME.fullmatch(name) for name in os.listdir(directory))
    except OSError:
        return not directory.exists()


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names, for messages."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
