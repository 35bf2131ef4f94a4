"""Files below a folder, with splits and classes from its subfolders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import final

from smalti.core.errors import InputError
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import ordered_splits, require_split
from smalti.data.sources.listing import Listing, class_depth, normal_endings

FRAMES_ENDING = ".frames"
"""Extension of the name of a folder whose images are the frames of one clip."""


@final
class FolderSource(Source):
    """The files below a folder that have one of the given extensions, or a single such file.

    If all top-level folders have split names (train, val, test, ...), they are the splits; otherwise there is
    one split, "all". If every file of a split lies in a subfolder, and there are at least two of them, the
    subfolders are the classes. Hidden files and folders are left out; links are followed, except loops. If
    ".frames" is among the extensions, a folder with that extension is one item.

    Args:
        path: a folder, or one file.
        extensions: extensions of the wanted files, such as ".png", in any case.

    Raises:
        InputError: if the path does not exist, or holds no wanted file.
    """

    def __init__(self, path: Path, extensions: Sequence[str]):
        listing = Listing(normal_endings(extensions))
        if path.is_dir() and not _is_clip(path.name, listing):
            self._root = path
            self._scan(listing)
        elif path.exists():
            self._root = path.parent
            self._single(path, listing)
        else:
            raise InputError(f"expected a folder or a file, got {path}, which does not exist: check the path")
        self._files, self._notes = listing.by_split()
        self.splits = ordered_splits(self._files)
        sizes = ", ".join(f"{name} {len(self._files[name]):,}" for name in self.splits)
        self.description = f"{'folder' if path.is_dir() else 'file'} {path} ({sizes})"

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return len(self._files[split])

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        files = self._files[split]
        depth = class_depth(files, split)
        for file in files:
            label = None if depth is None else PurePosixPath(file).parts[depth]
            yield Item(file, self._root / file, label)

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        return list(self._notes[split])

    def _scan(self, listing: Listing) -> None:
        self._walk(self._root, "", frozenset(), listing)
        if not listing.wanted:
            raise listing.none_wanted(f"below {self._root}")

    def _walk(self, folder: Path, prefix: str, above: frozenset[tuple[int, int]], listing: Listing) -> None:
        """List a folder; `above` identifies its parents, so that a loop of links ends."""
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            listing.closed.append(prefix.rstrip("/") or ".")
            return
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            is_clip = _is_clip(entry.name, listing)
            if entry.is_dir() and not is_clip:
                self._walk(Path(entry.path), f"{prefix}{entry.name}/", above | {identity}, listing)
            elif listing.wants(entry.name) and (is_clip or entry.is_file() or entry.is_symlink()):
                # A broken link is kept, and is then reported as an unreadable item.
                listing.wanted.append(prefix + entry.name)
            else:
                listing.others.append(prefix + entry.name)

    def _single(self, path: Path, listing: Listing) -> None:
        if not listing.wants(path.name):
            raise InputError(
                f"expected a folder, or a file that ends in one of {', '.join(listing.endings)}, got {path}: "
                "unpack an archive, or convert a file of another format"
            )
        listing.wanted.append(path.name)


def _is_clip(name: str, listing: Listing) -> bool:
    """Return True if a folder of this name is one item."""
    return name.lower().endswith(FRAMES_ENDING) and listing.wants(name)
