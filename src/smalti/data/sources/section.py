"""A section of a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np

from smalti.data.sources.base import Content, Item, Source
from smalti.data.sources.local import state_of


@final
class Section(Source):
    """A section of a split, as a source that also digests its items: names, classes and contents.

    Files are digested by their size and time of change.

    Args:
        source: the whole.
        split: its split.
        begin: index of the first item.
        end: index after the last item.
    """

    def __init__(self, source: Source, split: str, begin: int, end: int) -> None:
        self._source, self._begin, self._end = source, begin, end
        self.description, self.splits = source.description, (split,)
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Digest of the items that were yielded so far."""
        return self._hash.hexdigest()

    def count(self, split: str) -> int:
        return self._end - self._begin

    def items(self, split: str) -> Iterator[Item]:
        for item in self._source.section(split, self._begin, self._end):
            words = repr((item.name, item.label, _state(item.content)))
            self._hash.update(words.encode("utf-8", "backslashreplace"))
            yield item


def _state(content: Content) -> object:
    if isinstance(content, tuple):
        return [_state(part) for part in content]
    if isinstance(content, Path):
        return state_of(content)
    data = np.ascontiguousarray(content).data if isinstance(content, np.ndarray) else content
    return hashlib.sha256(data).hexdigest()
