"""Decoded data on disk, memory-mapped: every item has the same shape, so that a batch is one gather.

A store is a directory: `index.json` (what it is), `signals.bin` (items one after another), `labels.bin`
(int64) and `names.txt` (one JSON string a line). It is written beside its place and renamed into it, whole or
not at all.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, final

import numpy as np
from jaxtyping import Int64
from pydantic import NonNegativeInt, PositiveInt, ValidationError

from smalti.data.sources.base import Item, Source, UnreadableItem
from smalti.interfaces import Configuration, InputError, SignalSpec

FORMAT = 1
"""Version of the layout; raised when an older smalti could no longer read it."""

FILES = frozenset({"index.json", "signals.bin", "labels.bin", "names.txt"})

WINDOW = 4
"""Items decoded ahead for each worker: enough to keep all of them busy, little enough for large files."""


class _Index(Configuration):
    format: PositiveInt
    count: PositiveInt
    shape: tuple[PositiveInt, ...]
    dtype: str
    names_bytes: NonNegativeInt
    classes: tuple[str, ...]
    skipped: list[dict[str, str]]
    source: str
    split: str
    protocol: dict[str, Any]


@final
@dataclass(frozen=True, eq=False)
class Store:
    """Decoded items of one split of one source.

    Attributes:
        directory: where it lies.
        signals: `(count, *shape)`, a memory map of the items; changes to it never reach the disk.
        labels: class id of each item; -1 where none was given.
        classes: class names, by id.
        skipped: items that could not be decoded, as {"name", "reason"}.
        source: the source in words.
        split: which of its splits this is.
        protocol: what the items went through.
    """

    directory: Path
    signals: np.ndarray
    labels: Int64[np.ndarray, " count"]
    classes: tuple[str, ...]
    skipped: list[dict[str, str]]
    source: str
    split: str
    protocol: dict[str, Any]

    @property
    def count(self) -> int:
        """Number of items."""
        return len(self.signals)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item."""
        return self.signals.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements of an item."""
        return self.signals.dtype

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each item; read when it is first asked for."""
        with (self.directory / "names.txt").open(encoding="ascii") as lines:
            return tuple(json.loads(line) for line in lines)

    @classmethod
    def open(cls, directory: str | Path) -> Store:
        """Open a store; nothing but its index and labels is read.

        Raises:
            InputError: when there is none, it was not written to its end, or a newer smalti wrote it.
        """
        directory = Path(directory)
        index = _read_index(directory)
        dtype = np.dtype(index.dtype)
        shape = (index.count, *index.shape)
        expected_bytes = {
            "signals.bin": int(np.prod(shape, dtype=object)) * dtype.itemsize,
            "labels.bin": index.count * 8,
            "names.txt": index.names_bytes,
        }
        for name, expected in expected_bytes.items():
            file = directory / name
            received = file.stat().st_size if file.is_file() else 0
            if received != expected:
                raise InputError(
                    f"{file} should hold {expected} bytes for {index.count} items but holds {received}: "
                    f"the data was not written to its end; delete {directory} and prepare it again."
                )
        labels = np.fromfile(directory / "labels.bin", np.int64)
        if labels.min() < -1 or labels.max() >= len(index.classes):
            raise InputError(
                f"{directory / 'labels.bin'} names a class outside -1..{len(index.classes) - 1}: "
                f"it is damaged; delete {directory} and prepare it again."
            )
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
        )

    @classmethod
    def write(
        cls,
        directory: str | Path,
        decoded: Iterable[tuple[str, np.ndarray, str | None]],
        shape: Sequence[int],
        dtype: np.dtype | type | str,
        *,
        classes: Sequence[str] | None = None,
        skipped: list[dict[str, str]] | None = None,
        source: str = "",
        split: str = "all",
        protocol: dict[str, Any] | None = None,
    ) -> Store:
        """Write a store, replacing one that is there, and open it.

        Args:
            directory: its place; a directory of anything else than a store is left alone.
            decoded: (name, array of `shape` and `dtype`, class name or None) of each item, taken one by one.
            shape: shape of one item.
            dtype: an integer or float type.
            classes: class names by id; None numbers the names that occur, sorted.
            skipped: what could not be decoded; read after the last item, so `decoded` may still add to it.
            source: the source in words.
            split: name of the split.
            protocol: what the items went through, as plain JSON values.

        Raises:
            InputError: without items, for an item of another shape or an unknown class, when the disk is full
                or not writable, or when the directory holds something else.
        """
        directory = Path(directory)
        if not _is_replaceable(directory):
            raise InputError(
                f"{directory} holds something else than prepared data, so it is left: choose another place."
            )
        temporary = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.tmp")
        try:
            with disk_errors(directory):
                temporary.mkdir(parents=True)
            writer = _Writer(temporary, tuple(shape), np.dtype(dtype), classes)
            try:
                for name, array, label in decoded:
                    with disk_errors(directory):
                        writer.append(name, array, label)
                if not writer.count:
                    raise InputError(
                        f"There are no items to write to {directory}: check the source and its split."
                    )
                with disk_errors(directory):
                    writer.finish(skipped=skipped or [], source=source, split=split, protocol=protocol or {})
            finally:
                writer.close()
            # Opened before it is moved, after which another process may replace it.
            store = replace(cls.open(temporary), directory=directory)
            with disk_errors(directory):
                _move_into_place(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return store


class _Writer:
    """The files of one store, while they grow."""

    def __init__(
        self, directory: Path, shape: tuple[int, ...], dtype: np.dtype, classes: Sequence[str] | None
    ) -> None:
        self.directory, self.shape, self.dtype, self.classes = directory, shape, dtype, classes
        self.known = None if classes is None else frozenset(classes)
        self.labels: list[str | None] = []
        self.signals_file: IO[bytes] = (directory / "signals.bin").open("wb")
        self.names_file: IO[bytes] = (directory / "names.txt").open("wb")

    @property
    def count(self) -> int:
        return len(self.labels)

    def append(self, name: str, array: np.ndarray, label: str | None) -> None:
        if array.shape != self.shape or array.dtype != self.dtype:
            raise InputError(
                f"Expected items of shape {self.shape} and type {self.dtype}, received "
                f"{array.shape} and {array.dtype} for {name}: bring all items to one shape and type."
            )
        if label is not None and self.known is not None and label not in self.known:
            raise InputError(
                f"Expected one of the {len(self.known)} known classes ({_some(self.classes or ())}), "
                f'received "{label}" for {name}: remove or rename that class, or train with it.'
            )
        self.signals_file.write(np.ascontiguousarray(array).data)
        self.names_file.write(json.dumps(name).encode("ascii") + b"\n")
        self.labels.append(label)

    def finish(self, **description: Any) -> None:
        """Write labels and index, and have all of it on the disk before it can be found."""
        classes = (
            self.classes
            if self.classes is not None
            else sorted({label for label in self.labels if label is not None})
        )
        ids: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
        ids[None] = -1
        labels = np.fromiter((ids[label] for label in self.labels), np.int64, self.count)
        index = _Index(
            format=FORMAT,
            count=self.count,
            shape=self.shape,
            dtype=self.dtype.name,
            names_bytes=self.names_file.tell(),
            classes=tuple(classes),
            **description,
        )
        for file in (self.signals_file, self.names_file):
            sync(file)
        for name, content in (
            ("labels.bin", labels.tobytes()),
            ("index.json", index.model_dump_json(indent=1).encode()),
        ):
            with (self.directory / name).open("wb") as file:
                file.write(content)
                sync(file)

    def close(self) -> None:
        for file in (self.signals_file, self.names_file):
            # On a full disk, closing fails once more for what is still buffered; the first error tells it.
            with suppress(OSError):
                file.close()


def build_store(
    directory: str | Path,
    source: Source,
    split: str,
    decode: Callable[[Any], np.ndarray],
    protocol: dict[str, Any],
    spec: SignalSpec,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    classes: Sequence[str] | None = None,
) -> Store:
    """Decode one split of a source into a store, by several threads, in the source's order.

    An item that cannot be read is left out and listed in `Store.skipped`.

    Args:
        directory: where the store goes.
        source: where the items come from.
        split: which of its splits.
        decode: `Item.content` -> array of `spec`'s shape; raises `UnreadableItem`.
        protocol: what `decode` does, as plain JSON values.
        spec: shape and levels of the decoded items.
        progress: called with the items done, unreadable ones too, and the number of all.
        workers: threads; None for one a core, at most 16.
        classes: class names by id, for a split that must agree with another; None numbers them, sorted.

    Raises:
        InputError: when no item can be read, and as `Store.write` does.
    """
    skipped: list[dict[str, str]] = []
    total = source.count(split)

    def decoded() -> Iterator[tuple[str, np.ndarray, str | None]]:
        done = 0
        for item, result in _decode_ahead(source.items(split), decode, workers):
            if isinstance(result, UnreadableItem):
                skipped.append({"name": _readable(item.name), "reason": _readable(str(result))})
            else:
                yield _readable(item.name), result, None if item.label is None else _readable(item.label)
            done += 1
            if progress is not None:
                progress(done, total)
        if done == 0:
            raise InputError(
                f'The split "{split}" of {source.description} has no items: check the path and the split.'
            )
        if done == len(skipped):
            first = skipped[0]
            raise InputError(
                f'None of the {done} items of {source.description}, split "{split}", can be read '
                f"(the first, {first['name']}: {first['reason']}): check the files and the modality."
            )

    return Store.write(
        directory,
        decoded(),
        (spec.channels, *spec.size),
        smallest_dtype(spec.levels),
        classes=classes,
        skipped=skipped,
        source=source.description,
        split=split,
        protocol=protocol,
    )


def smallest_dtype(levels: int) -> np.dtype:
    """The smallest type for 0..levels - 1 that torch computes with: uint8, int16, int32 or int64."""
    kinds = (np.uint8, np.int16, np.int32, np.int64)
    return next(np.dtype(kind) for kind in kinds if levels - 1 <= np.iinfo(kind).max)


def _decode_ahead(
    items: Iterable[Item], decode: Callable[[Any], np.ndarray], workers: int | None
) -> Iterator[tuple[Item, np.ndarray | UnreadableItem]]:
    """Each item with what became of it, in order, while threads decode the next ones."""

    def attempt(content: Any) -> np.ndarray | UnreadableItem:
        try:
            return decode(content)
        except UnreadableItem as error:
            return error

    workers = workers or min(16, os.cpu_count() or 1)
    window: deque[tuple[Item, Future[np.ndarray | UnreadableItem]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for item in items:
            window.append((item, pool.submit(attempt, item.content)))
            if len(window) >= WINDOW * workers:
                first, future = window.popleft()
                yield first, future.result()
        while window:
            first, future = window.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or closed disk into a sentence about `path`.

    Raises:
        InputError: in place of the `OSError`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"The disk is full, so {path} was not written: free space, or choose another place."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise InputError(
                f"{path} cannot be written ({error.strerror}): choose a place that you may write to."
            ) from error
        raise


def sync(file: IO[bytes]) -> None:
    """Have all that was written to a file on the disk, not in a cache."""
    file.flush()
    os.fsync(file.fileno())


def _read_index(directory: Path) -> _Index:
    file = directory / "index.json"
    if not file.is_file():
        raise InputError(f"{directory} holds no prepared data (there is no index.json): check the path.")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise InputError(
            f"{file} is damaged or unreadable: delete {directory} and prepare it again."
        ) from error
    version = content.get("format") if isinstance(content, dict) else None
    # Before all else, since a newer index may have other keys.
    if isinstance(version, int) and version > FORMAT:
        raise InputError(
            f"{directory} was written by a newer version of smalti (format {version}; "
            f"this one reads up to {FORMAT}): run pip install -U smalti, or prepare the data again."
        )
    try:
        index = _Index.model_validate(content)
        if np.dtype(index.dtype).kind not in "iuf":
            raise TypeError(index.dtype)
    except (ValidationError, TypeError) as error:
        raise InputError(f"{file} is damaged: delete {directory} and prepare it again.") from error
    return index


def _is_replaceable(directory: Path) -> bool:
    """Whether nothing but a store, or part of one, is lost when this directory is replaced."""
    try:
        return set(os.listdir(directory)) <= FILES
    except OSError:
        return not directory.exists()


def _move_into_place(temporary: Path, directory: Path) -> None:
    """Rename, after renaming what is there out of the way: a reader finds a whole store or none."""
    aside = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.old.tmp")
    with suppress(FileNotFoundError):
        directory.rename(aside)
    try:
        temporary.rename(directory)
    except OSError as error:
        # Another process finished the same store in between: its data is as good as ours.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    parent = os.open(directory.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _readable(text: str) -> str:
    """Valid Unicode: file names need not be, but JSON and Parquet must."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
