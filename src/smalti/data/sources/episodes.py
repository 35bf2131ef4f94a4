"""Tables of frames as clips: a row is a frame, and the rows of an episode are a clip with its actions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smalti.core.errors import InputError
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import class_name, ordered_splits, require_split, signal_content
from smalti.data.sources.parquet import (
    BUFFER_BYTES,
    ROWS_AT_ONCE,
    ParquetSource,
    class_names,
    files_by_split,
    parquet_files,
    read_footer,
    signal_column,
)

EPISODE_COLUMN = "episode"
ACTION_COLUMN = "action"
VECTOR_COLUMN = "action_vector"
"""Continuous action at each frame; becomes the condition of the same name."""


@final
class EpisodesSource(Source):
    """Parquet whose rows are frames: `image`, `episode`, and optionally `action` and `action_vector`.

    Consecutive rows with the same `episode` (a number or a string) are the frames of one clip; an episode
    does not continue in another file. `action` is a name or a number; numbers get the names of a Hugging Face
    `ClassLabel` in the schema. `action_vector` is a list of numbers, as many in every row: a continuous
    action. `smalti collect` writes such files.

    Args:
        path: the file, or a folder of such files.

    Raises:
        InputError: if a file is not Parquet or has other columns than the first one, or `action_vector` does
            not hold lists of numbers.
    """

    def __init__(self, path: Path) -> None:
        self._root = path if path.is_dir() else path.parent
        files = parquet_files(path) if path.is_dir() else [path]
        self._files = files_by_split(files, self._root)
        self.splits = ordered_splits(self._files)
        schema, _ = read_footer(files[0])
        self._signal = signal_column(schema, files[0])
        self._action = ACTION_COLUMN if ACTION_COLUMN in schema.names else None
        self._vector = _vector_column(schema, files[0])
        self._names = class_names(schema, self._action)
        self._counts = {split: sum(map(self._episodes, group)) for split, group in self._files.items()}
        if not any(self._counts.values()):
            raise InputError(f"expected rows in {path}, found none")
        sizes = ", ".join(f"{name} {self._counts[name]:,}" for name in self.splits)
        self.description = f"episodes of {path}, column {self._signal} ({sizes})"

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return True for Parquet files, or a folder of nothing else, with a column of episodes."""
        if not ParquetSource.accepts(path):
            return False
        files = parquet_files(path) if path.is_dir() else [path]
        return all(_has_episodes(file) for file in files)

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return self._counts[split]

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        for file in self._files[split]:
            prefix = file.relative_to(self._root).as_posix()
            for episode, rows in itertools.groupby(self._rows(file), lambda row: row[EPISODE_COLUMN]):
                frames = list(rows)
                yield Item(
                    f"{prefix}#{EPISODE_COLUMN}{episode}",
                    tuple(signal_content(frame[self._signal], file.parent) for frame in frames),
                    actions=None
                    if self._action is None
                    else tuple(class_name(frame[self._action], self._names) for frame in frames),
                    columns={} if self._vector is None else {VECTOR_COLUMN: _vectors(frames, file)},
                )

    def _rows(self, file: Path) -> Iterator[dict[str, Any]]:
        wanted = (self._signal, EPISODE_COLUMN, self._action, self._vector)
        columns = [name for name in wanted if name is not None]
        try:
            with pq.ParquetFile(file, buffer_size=BUFFER_BYTES) as table:
                for batch in table.iter_batches(ROWS_AT_ONCE, columns=columns):
                    yield from batch.to_pylist()
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(
                f"expected intact Parquet in {file}, it cannot be read: fetch it again"
            ) from error

    def _episodes(self, file: Path) -> int:
        """Number of episodes in a file."""
        wanted = {self._signal, self._action or self._signal, self._vector or self._signal}
        schema, _ = read_footer(file)
        missing = sorted(wanted.difference(schema.names))
        if missing:
            raise InputError(
                f"expected the column {missing[0]} in {file}, as in the first file, found none: keep files "
                "of different tables in different folders"
            )
        _vector_column(schema, file)
        episodes = pq.read_table(file, columns=[EPISODE_COLUMN])[EPISODE_COLUMN].to_pylist()
        return sum(1 for _ in itertools.groupby(episodes))


def _vector_column(schema: pa.Schema, file: Path) -> str | None:
    """Name of the column of continuous actions, if there is one."""
    if VECTOR_COLUMN not in schema.names:
        return None
    kind = schema.field(VECTOR_COLUMN).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise InputError(
            f"expected lists of numbers in the column {VECTOR_COLUMN} of {file}, received {kind}: convert or "
            "rename the column"
        )
    return VECTOR_COLUMN


def _vectors(frames: list[dict[str, Any]], file: Path) -> np.ndarray:
    """Continuous actions of the frames of an episode, `(F, V)`; NaN where a row has none."""
    cells = [frame[VECTOR_COLUMN] for frame in frames]
    widths = {len(cell) for cell in cells if cell is not None}
    if len(widths) > 1 or widths == {0}:
        raise InputError(
            f"expected as many numbers in every row of the column {VECTOR_COLUMN} of {file}, received "
            f"{min(widths)} to {max(widths)} in the episode {frames[0][EPISODE_COLUMN]}: complete the lists"
        )
    absent = [math.nan] * (widths or {1}).pop()
    return np.array([absent if cell is None else cell for cell in cells], np.float64)


def _has_episodes(file: Path) -> bool:
    try:
        schema = pq.read_schema(file)
        if schema.names.count(EPISODE_COLUMN) != 1:
            return False
    except (pa.ArrowException, OSError, ValueError):
        return False
    kind = schema.field(EPISODE_COLUMN).type
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
