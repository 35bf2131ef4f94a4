"""Files of a local folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

from smalti.core.errors import InputError
from smalti.data.sources.base import Entry, Files, Item, State


@final
class LocalFiles(Files):
    """Files of a folder.

    Args:
        root: the folder.
        names: as in `Files`.
        class_depth: as in `Files`.
        folders: as in `Files`.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str] = (),
        class_depth: int | None = None,
        folders: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(names, class_depth)
        self._root, self.folders = root, folders or {}

    def item(self, name: str) -> Item:
        """The item of a name."""
        return Item(name, self._root / name, self.label(name))

    def entries(self) -> Iterator[Entry]:
        return ((name, self._state(name)) for name in self.names)

    def items(self, entries: Iterable[Entry]) -> Iterator[Item]:
        for name, state in entries:
            if self._state(name) != state:
                raise changed_item(name, self._root)
            yield self.item(name)

    def changed(self, entries: Iterable[Entry]) -> str | None:
        return next((name for name, state in entries if self._state(name) != state), None)

    def has_same_folders(self, times: Iterable[tuple[str, int]]) -> bool:
        try:
            return all((self._root / name).stat().st_mtime_ns == time for name, time in times)
        except OSError:
            return False

    def _state(self, name: str) -> State:
        # Not os.path.join, which takes as long as the call to the file system.
        return state_of(f"{self._root}/{name}")


def state_of(path: str | Path) -> State:
    """Return the state of a file, or of a folder that is one item, over its files."""
    try:
        status = os.stat(path)
        if not os.path.isdir(path):
            return status.st_size, status.st_mtime_ns
        states = [entry.stat() for entry in os.scandir(path)]
    except (OSError, ValueError):
        return -1, -1
    return sum(one.st_size for one in states), max((one.st_mtime_ns for one in states), default=0)


def changed_item(name: str, place: object) -> InputError:
    """Return the error for an item that has changed since it was listed."""
    return InputError(
        f"expected {name} of {place} as it was when the plan was made, but it has changed since: restore it, "
        "or choose another --out"
    )
