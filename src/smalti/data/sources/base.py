"""What every source of data is: named splits of items that are not decoded yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class UnreadableItem(ValueError):
    """One item that cannot be decoded: it is skipped, counted and listed, and the others go on."""


Content = Path | bytes | np.ndarray | tuple[Path | bytes, ...]


@dataclass(frozen=True)
class Item:
    """One item of a corpus, not decoded yet.

    Attributes:
        name: what identifies the item within its source (a relative path, a row number).
        content: a file, its bytes, or the decoded array itself (uint8, `(H, W)` or `(H, W, C)` for images);
            of a clip, also a tuple of the files or bytes of its frames.
        label: class name, or None.
        actions: of a clip, what is done at each of its frames, by name; or None.
    """

    name: str
    content: Content
    label: str | None = None
    actions: tuple[str | None, ...] | None = None


class Source(ABC):
    """A corpus: one or more splits of items."""

    description: str
    """The source in words, as the user gave it and as it was understood."""

    splits: tuple[str, ...]
    """Names of the splits, in the order train, validation, test; a corpus without splits has ("all",)."""

    @abstractmethod
    def count(self, split: str) -> int:
        """Number of items that `items` will yield."""

    @abstractmethod
    def items(self, split: str) -> Iterator[Item]:
        """The items of a split, in an order that is the same at every call and on every machine."""

    def notes(self, split: str) -> list[str]:
        """What a user should know of this split (files that were ignored, say), a sentence each."""
        return []

    def pick(self, *preferred: str) -> str:
        """The first of the preferred split names that exists, or else the first split there is."""
        return next((name for name in preferred if name in self.splits), self.splits[0])
