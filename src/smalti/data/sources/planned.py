"""A stored listing of files: a place is listed once, and each process streams its part of the list."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import final

import numpy as np
import pyarrow as pa

from smalti.core.errors import InputError
from smalti.data.sources.base import Entry, Files, Item, Source
from smalti.data.sources.conventions import require_split

ROWS = 1 << 16
"""Entries per record batch, the unit in which a listing is read."""

_SCHEMA = pa.schema([("name", pa.binary()), ("size", pa.int64()), ("changed_ns", pa.int64())])


def digest_of(entries: Iterable[Entry]) -> str:
    """Return a digest of a listing."""
    digest = hashlib.sha256()
    for names, states in _batches(entries):
        _update(digest, names, states)
    return digest.hexdigest()


def write_listing(path: Path, entries: Iterable[Entry]) -> str:
    """Write a listing, and return its `digest_of`."""
    digest = hashlib.sha256()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA, options=options) as writer:
        for names, states in _batches(entries):
            _update(digest, names, states)
            columns = [pa.array(names, pa.binary()), pa.array(states[:, 0]), pa.array(states[:, 1])]
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
    return digest.hexdigest()


def read_listing(path: Path, begin: int = 0, end: int | None = None) -> Iterator[Entry]:
    """Yield the entries of a listing from index `begin` up to `end`.

    Raises:
        InputError: if it is damaged.
    """
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            last = reader.num_record_batches if end is None else -(-end // ROWS)
            for number in range(begin // ROWS, last):
                first = number * ROWS
                stop = ROWS if end is None else end - first
                columns = reader.get_batch(number).columns
                rows = (column[max(0, begin - first) : min(ROWS, stop)].to_pylist() for column in columns)
                for name, size, changed in zip(*rows, strict=True):
                    yield os.fsdecode(name), (size, changed)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"expected a listing of files in {path}, which is damaged: choose another --out"
        ) from error


def _batches(entries: Iterable[Entry]) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Yield names and states `(n, 2)` of at most `ROWS` entries at once."""
    remaining = iter(entries)
    while batch := list(islice(remaining, ROWS)):
        yield [os.fsencode(name) for name, _ in batch], np.array([state for _, state in batch], np.int64)


def _update(digest: hashlib._Hash, names: list[bytes], states: np.ndarray) -> None:
    digest.update(b"\0".join(names))
    digest.update(states.tobytes())


@final
class PlannedSource(Source):
    """The files of a place as a listing names them.

    Args:
        listing: written by `write_listing`.
        files: the place; its names are not used.
        split: the split that is listed.
        count: number of its files.
        description: of the source.
    """

    def __init__(self, listing: Path, files: Files, split: str, count: int, description: str) -> None:
        self._listing, self._files, self._count = listing, files, count
        self.splits, self.description = (split,), description

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return self._count

    def items(self, split: str) -> Iterator[Item]:
        return self.section(split, 0, self.count(split))

    def section(self, split: str, begin: int, end: int) -> Iterator[Item]:
        """Yield a section of the items.

        Raises:
            InputError: if a file has changed since it was listed.
        """
        require_split(split, self.splits, self.description)
        return self._files.items(read_listing(self._listing, begin, end))

    def changed(self, split: str, begin: int, end: int) -> str | None:
        require_split(split, self.splits, self.description)
        return self._files.changed(read_listing(self._listing, begin, end))
