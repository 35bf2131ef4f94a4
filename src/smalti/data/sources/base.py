"""Base class of sources: named splits of items that are not decoded yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from smalti.data.columns import Columns


class UnreadableItem(ValueError):
    """Raised for an item that cannot be decoded; such an item is skipped, counted and listed."""


Content = Path | bytes | np.ndarray | tuple[Path | bytes, ...]


@dataclass(frozen=True)
class Item:
    """One item of a corpus, not decoded yet.

    Attributes:
        name: identifies the item within its source (a relative path, a row number).
        content: a file, its bytes, or the decoded array itself (uint8, `(H, W)` or `(H, W, C)` for images);
            of a clip, also a tuple of the files or bytes of its frames.
        label: class name, or None.
        actions: of a clip, the name of the action at each frame; or None.
        columns: further conditions by name, each with one value for the item (a name, or a float vector
            `(V,)`) or one per frame (names, or float vectors `(F, V)`). Names become ids.
    """

    name: str
    content: Content
    label: str | None = None
    actions: tuple[str | None, ...] | None = None
    columns: Columns = field(default_factory=dict, hash=False)


State = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds; (-1, -1) for a file that is not there."""

Entry = tuple[str, State]
"""Path and state of a file."""


class Files(ABC):
    """Items that are the files of one place, listed by their paths from there.

    Args:
        names: paths, which are the names of the items, in order.
        class_depth: index of the path's component that is the class; None without classes.
    """

    folders: Mapping[str, int]
    """Time of the last change of each folder that was listed, nanoseconds, by its path."""

    def __init__(self, names: Sequence[str] = (), class_depth: int | None = None) -> None:
        self.names, self.class_depth, self.folders = names, class_depth, {}

    def label(self, name: str) -> str | None:
        """Class of an item."""
        return None if self.class_depth is None else PurePosixPath(name).parts[self.class_depth]

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield all names with the states of their files now."""

    @abstractmethod
    def items(self, entries: Iterable[Entry]) -> Iterator[Item]:
        """Yield the items of entries of a listing, in order.

        Raises:
            InputError: if a file has changed since it was listed.
        """

    @abstractmethod
    def changed(self, entries: Iterable[Entry]) -> str | None:
        """Return the first name whose file has changed since it was listed, as far as that is known."""

    @abstractmethod
    def has_same_folders(self, times: Iterable[tuple[str, int]]) -> bool:
        """Return True if no file was added or removed, as far as that is known without listing them again.

        Args:
            times: `folders` as they were.
        """


class Source(ABC):
    """A corpus: one or more splits of items."""

    description: str
    """Description of the source, for messages and records."""

    splits: tuple[str, ...]
    """Names of the splits, in the order train, validation, test; ("all",) for a corpus without splits."""

    @abstractmethod
    def count(self, split: str) -> int:
        """Number of items that `items` will yield."""

    @abstractmethod
    def items(self, split: str) -> Iterator[Item]:
        """Yield the items of a split, in the same order at every call and on every machine."""

    def section(self, split: str, begin: int, end: int) -> Iterator[Item]:
        """Yield the items from index `begin` up to `end` of a split; faster than `items` if it can seek."""
        return islice(self.items(split), begin, end)

    def annotations(self, split: str) -> Iterator[Item]:
        """Yield the items of a split without contents (b""); faster than `items` if those can be left."""
        return (replace(item, content=b"") for item in self.items(split))

    def files(self, split: str) -> Files | None:
        """The items of a split if they are the files of one place; None otherwise."""
        return None

    def changed(self, split: str, begin: int, end: int) -> str | None:
        """Name an item of a section that has changed since the source was listed; None without a listing."""
        return None

    def notes(self, split: str) -> list[str]:
        """Notes for the user about a split (for example ignored files), one sentence each."""
        return []

    def pick(self, *preferred: str) -> str:
        """Return the first of the preferred split names that exists, or else the first split."""
        return next((name for name in preferred if name in self.splits), self.splits[0])
