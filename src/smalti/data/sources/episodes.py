"""Tables of frames as clips: a row is a frame, and the rows of an episode are a clip with its actions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

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
    signal_column,
)

EPISODE_COLUMN = "episode"
ACTION_COLUMN = "action"


@final
class EpisodesSource(Source):
    """Parquet whose rows are frames: `image`, `episode`, and perhaps `action`, as `smalti collect` writes.

    Rows that follow each other and name the same episode (a number or a string) are one clip, in their order;
    an episode does not go on in another file. An action is a name or a number, with its name where Hugging
    Face's `ClassLabel` tells it.

    Args:
        path: the file, or a folder of such files.

    Raises:
        InputError: when a file is not Parquet, or has other columns than the first one.
    """

    def __init__(self, path: Path) -> None:
        self._root = path if path.is_dir() else path.parent
        files = parquet_files(path) if path.is_dir() else [path]
        self._files = files_by_split(files, self._root)
        self.splits = ordered_splits(self._files)
        schema = pq.read_schema(files[0])
        self._signal = signal_column(schema, files[0])
        self._action = ACTION_COLUMN if ACTION_COLUMN in schema.names else None
        self._names = class_names(schema, self._action)
        self._counts = {split: sum(map(self._episodes, group)) for split, group in self._files.items()}
        if not any(self._counts.values()):
            raise InputError(f"expected rows in {path}, found none")
        sizes = ", ".join(f"{name} {self._counts[name]:,}" for name in self.splits)
        self.description = f"episodes of {path}, column {self._signal} ({sizes})"

    @staticmethod
    def accepts(path: Path) -> bool:
        """Whether this is Parquet, or a folder of nothing else, with pictures and their episodes in it."""
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
                )

    def _rows(self, file: Path) -> Iterator[dict[str, Any]]:
        columns = [name for name in (self._signal, EPISODE_COLUMN, self._action) if name is not None]
        try:
            with pq.ParquetFile(file, buffer_size=BUFFER_BYTES) as table:
                for batch in table.iter_batches(ROWS_AT_ONCE, columns=columns):
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"expected intact Parquet in {file}, it cannot be read: fetch it again"
            ) from error

    def _episodes(self, file: Path) -> int:
        """Stretches of rows that name the same episode."""
        wanted = {self._signal, self._action or self._signal}
        missing = sorted(wanted.difference(pq.read_schema(file).names))
        if missing:
            raise InputError(
                f"expected the column {missing[0]} in {file}, as in the first file, found none: keep files "
                "of different tables in different folders"
            )
        episodes = pq.read_table(file, columns=[EPISODE_COLUMN])[EPISODE_COLUMN].to_pylist()
        return sum(1 for _ in itertools.groupby(episodes))


def _has_episodes(file: Path) -> bool:
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return False
    if EPISODE_COLUMN not in schema.names:
        return False
    kind = schema.field(EPISODE_COLUMN).type
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
