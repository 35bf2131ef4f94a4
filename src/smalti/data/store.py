"""Decoded data on disk, memory-mapped: every item has the same shape, so that a batch is one gather.

Items may differ in the axis after their channels, time: they are then ragged, and lie with that axis first,
so that a stretch of one is adjacent in the file.

A store is a directory: `index.json` (what it is), `signals.bin` (items one after another), `labels.bin`
(int64), of ragged items `lengths.bin` (int64), of clips with actions `actions.bin` (int64, one a frame), and
`names.txt` (one JSON string a line). It is written beside its place and renamed into it, whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple, final

import numpy as np
from jaxtyping import Int64
from pydantic import NonNegativeInt, PositiveInt, ValidationError

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.files import atomic_directory

FORMAT = 2
"""Version of the layout; raised when an older smalti could no longer read it. Stores without actions are of
version 1 still."""

FILES = frozenset({"index.json", "signals.bin", "labels.bin", "lengths.bin", "actions.bin", "names.txt"})

Shape = tuple[int | None, ...]
"""Shape of an item, channels first; None as the side after them where items differ in it."""


Actions = Sequence[str | None]
"""What is done at each frame of a clip, by name; None where it is not known."""


class Decoded(NamedTuple):
    """One item to write: its name, the array, its class or None, and of a clip its actions or None."""

    name: str
    array: np.ndarray
    label: str | None = None
    actions: Actions | None = None


class _Index(Configuration):
    format: PositiveInt
    count: PositiveInt
    shape: tuple[PositiveInt | None, ...]
    dtype: str
    names_bytes: NonNegativeInt
    classes: tuple[str, ...]
    actions: tuple[str, ...] = ()
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
        signals: `(count, *shape)`, a memory map of the items; of ragged items `(sum of lengths, *others)`.
            Changes to it never reach the disk.
        labels: class id of each item; -1 where none was given.
        classes: class names, by id.
        skipped: items that could not be decoded, as {"name", "reason"}.
        source: the source in words.
        split: which of its splits this is.
        protocol: what the items went through.
        lengths: of each ragged item, or None.
        action_names: names of the actions, by id.
        actions: action id at each row of the signals of ragged items, -1 for none; None where no item has
            any.
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

    @property
    def count(self) -> int:
        """Number of items."""
        return len(self.labels)

    @property
    def shape(self) -> Shape:
        """Shape of one item; the side after the channels is None where items differ in it."""
        others = self.signals.shape[1:]
        return others if self.lengths is None else (others[0], None, *others[1:])

    @cached_property
    def begins(self) -> Int64[np.ndarray, " count"]:
        """Row of `signals` at which each ragged item begins."""
        assert self.lengths is not None
        return np.cumsum(self.lengths) - self.lengths

    def item(self, index: int) -> np.ndarray:
        """One item, in its shape."""
        if self.lengths is None:
            return self.signals[index]
        begin = self.begins[index]
        return np.moveaxis(self.signals[begin : begin + self.lengths[index]], 0, 1)

    def length_of(self, index: int) -> int | None:
        """Of a ragged item, along the axis in which items differ."""
        return None if self.lengths is None else int(self.lengths[index])

    def actions_of(self, index: int) -> Actions | None:
        """The actions of a clip by name, or None where no item has any."""
        if self.actions is None or self.lengths is None:
            return None
        begin = self.begins[index]
        ids = self.actions[begin : begin + self.lengths[index]].tolist()
        return [self.action_names[number] if number >= 0 else None for number in ids]

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
        _check_sizes(directory, index, {"labels.bin": index.count * 8, "names.txt": index.names_bytes})
        lengths = None
        if _is_ragged(index.shape):
            _check_sizes(directory, index, {"lengths.bin": index.count * 8})
            lengths = np.fromfile(directory / "lengths.bin", np.int64)
            if lengths.min() < 1:
                raise InputError(
                    f"{directory / 'lengths.bin'} names an item of length {lengths.min()}: "
                    f"it is damaged; delete {directory} and prepare it again"
                )
        rows = index.count if lengths is None else sum(lengths.tolist())
        shape = (rows, *(side for side in index.shape if side is not None))
        _check_sizes(directory, index, {"signals.bin": int(np.prod(shape, dtype=object)) * dtype.itemsize})
        labels = np.fromfile(directory / "labels.bin", np.int64)
        if labels.min() < -1 or labels.max() >= len(index.classes):
            raise InputError(
                f"{directory / 'labels.bin'} names a class outside -1..{len(index.classes) - 1}: "
                f"it is damaged; delete {directory} and prepare it again"
            )
        actions = None
        if index.actions:
            _check_sizes(directory, index, {"actions.bin": rows * 8})
            actions = np.fromfile(directory / "actions.bin", np.int64)
            if actions.min() < -1 or actions.max() >= len(index.actions):
                raise InputError(
                    f"{directory / 'actions.bin'} names an action outside -1..{len(index.actions) - 1}: "
                    f"it is damaged; delete {directory} and prepare it again"
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
            lengths=lengths,
            action_names=index.actions,
            actions=actions,
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
        skipped: list[dict[str, str]] | None = None,
        source: str = "",
        split: str = "all",
        protocol: dict[str, Any] | None = None,
    ) -> Store:
        """Write a store, replacing one that is there, and open it.

        Args:
            directory: its place; a directory of anything else than a store is left alone.
            decoded: (name, array of `shape` and `dtype`, class name or None) of each item, and perhaps its
                actions, taken one by one.
            shape: shape of one item; None as the side after the channels where items differ in it.
            dtype: an integer or float type.
            classes: class names by id; None numbers the names that occur, sorted.
            actions: their names by id; None numbers those that occur, sorted.
            skipped: what could not be decoded; read after the last item, so `decoded` may still add to it.
            source: the source in words.
            split: name of the split.
            protocol: what the items went through, as plain JSON values.

        Raises:
            InputError: without items, for an item of another shape, an unknown class or action, or not as
                many actions as frames, when the disk is full or not writable, or when the directory holds
                something else.
        """
        directory = Path(directory)
        if not _is_replaceable(directory):
            raise InputError(
                f"{directory} holds something else than prepared data, so it is left: choose another place"
            )
        with atomic_directory(directory, replace=True) as temporary:
            with _Writer(temporary, tuple(shape), np.dtype(dtype), classes, actions) as writer:
                for item in decoded:
                    writer.append(item if isinstance(item, Decoded) else Decoded(*item))
                if not writer.count:
                    raise InputError(
                        f"there are no items to write to {directory}: check the source and its split"
                    )
                writer.finish(skipped=skipped or [], source=source, split=split, protocol=protocol or {})
            # Opened before it is moved, after which another process may replace it.
            return replace(cls.open(temporary), directory=directory)


class _Writer:
    """The files of one store, while they grow."""

    def __init__(
        self,
        directory: Path,
        shape: Shape,
        dtype: np.dtype,
        classes: Sequence[str] | None,
        actions: Sequence[str] | None,
    ) -> None:
        self.directory, self.shape, self.dtype, self.classes = directory, shape, dtype, classes
        self.action_names = actions
        self.actions: list[Actions | None] = []
        self.lengths: list[int] | None = [] if _is_ragged(shape) else None
        self.known = None if classes is None else frozenset(classes)
        self.labels: list[str | None] = []
        self.signals_file: IO[bytes] = (directory / "signals.bin").open("wb")
        self.names_file: IO[bytes] = (directory / "names.txt").open("wb")

    @property
    def count(self) -> int:
        return len(self.labels)

    def append(self, item: Decoded) -> None:
        name, array, label, actions = item
        if not self._fits(array) or array.dtype != self.dtype:
            raise InputError(
                f"expected items of shape {self.shape} and type {self.dtype}, received "
                f"{array.shape} and {array.dtype} for {name}: bring all items to one shape and type"
            )
        if label is not None and self.known is not None and label not in self.known:
            raise InputError(
                f"expected one of the {len(self.known)} known classes ({_some(self.classes or ())}), "
                f'received "{label}" for {name}: remove or rename that class, or train with it'
            )
        if actions is not None and (self.lengths is None or len(actions) != array.shape[1]):
            raise InputError(
                f"expected an action for each frame of a clip, received {len(actions)} actions for {name} of "
                f"shape {array.shape}: correct the actions, or leave them out"
            )
        if self.lengths is not None:
            self.lengths.append(array.shape[1])
            array = np.moveaxis(array, 1, 0)
        self.signals_file.write(np.ascontiguousarray(array).data)
        self.names_file.write(json.dumps(name).encode("ascii") + b"\n")
        self.labels.append(label)
        self.actions.append(actions)

    def _fits(self, array: np.ndarray) -> bool:
        if self.lengths is None or array.ndim != len(self.shape):
            return array.shape == self.shape
        return array.shape[1] > 0 and (array.shape[0], None, *array.shape[2:]) == self.shape

    def finish(self, **description: Any) -> None:
        """Close the files of the items, and write labels and index."""
        classes = (
            self.classes
            if self.classes is not None
            else sorted({label for label in self.labels if label is not None})
        )
        ids: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
        ids[None] = -1
        labels = np.fromiter((ids[label] for label in self.labels), np.int64, self.count)
        actions = self._write_actions()
        index = _Index(
            format=FORMAT if actions else 1,
            count=self.count,
            shape=self.shape,
            dtype=self.dtype.name,
            names_bytes=self.names_file.tell(),
            classes=tuple(classes),
            actions=actions,
            **description,
        )
        for file in (self.signals_file, self.names_file):
            file.close()
        (self.directory / "labels.bin").write_bytes(labels.tobytes())
        if self.lengths is not None:
            (self.directory / "lengths.bin").write_bytes(np.array(self.lengths, np.int64).tobytes())
        left_out = None if actions else {"actions"}
        content = index.model_dump_json(indent=1, exclude=left_out)
        (self.directory / "index.json").write_text(content, encoding="utf-8")

    def _write_actions(self) -> tuple[str, ...]:
        """The actions of all frames as ids, into a file if there are any; gives their names."""
        given = {name for actions in self.actions for name in actions or () if name is not None}
        names = sorted(given) if self.action_names is None else list(self.action_names)
        unknown = sorted(given - set(names))
        if unknown:
            raise InputError(
                f"expected one of the {len(names)} known actions ({_some(names)}), received "
                f'"{unknown[0]}": remove or rename that action, or train with it'
            )
        if not names:
            return ()
        ids: dict[str | None, int] = {name: number for number, name in enumerate(names)}
        ids[None] = -1
        rows = [
            np.full(length, -1, np.int64)
            if actions is None
            else np.array([ids[name] for name in actions], np.int64)
            for actions, length in zip(self.actions, self.lengths or (), strict=True)
        ]
        (self.directory / "actions.bin").write_bytes(np.concatenate(rows).tobytes())
        return tuple(names)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        for file in (self.signals_file, self.names_file):
            # On a full disk, closing fails once more for what is still buffered; the first error tells it.
            with suppress(OSError):
                file.close()


def _is_ragged(shape: Shape) -> bool:
    return len(shape) > 1 and shape[1] is None


def smallest_dtype(levels: int) -> np.dtype:
    """The smallest type for 0..levels - 1 that torch computes with: uint8, int16, int32 or int64."""
    kinds = (np.uint8, np.int16, np.int32, np.int64)
    return next(np.dtype(kind) for kind in kinds if levels - 1 <= np.iinfo(kind).max)


def _read_index(directory: Path) -> _Index:
    file = directory / "index.json"
    if not file.is_file():
        raise InputError(f"{directory} holds no prepared data (there is no index.json): check the path")
    try:
        content = json.loads(file.read_bytes())
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
    try:
        index = _Index.model_validate(content)
        if np.dtype(index.dtype).kind not in "iuf" or None in (*index.shape[:1], *index.shape[2:]):
            raise TypeError(index.dtype)
    except (ValidationError, TypeError) as error:
        raise InputError(f"{file} is damaged: delete {directory} and prepare it again") from error
    return index


def _check_sizes(directory: Path, index: _Index, expected_bytes: dict[str, int]) -> None:
    for name, expected in expected_bytes.items():
        file = directory / name
        received = file.stat().st_size if file.is_file() else 0
        if received != expected:
            raise InputError(
                f"{file} should hold {expected} bytes for {index.count} items but holds {received}: "
                f"the data was not written to its end; delete {directory} and prepare it again"
            )


def _is_replaceable(directory: Path) -> bool:
    """Whether nothing but a store, or part of one, is lost when this directory is replaced."""
    try:
        return set(os.listdir(directory)) <= FILES
    except OSError:
        return not directory.exists()


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
