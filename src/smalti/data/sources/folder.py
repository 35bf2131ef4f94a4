"""Files below a folder, with splits and classes from its subfolders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

from smalti.core.errors import InputError
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import ordered_splits, require_split
from smalti.data.sources.listing import Listing, class_depths, normal_endings, some
from smalti.data.sources.local import LocalFiles
from smalti.data.sources.walk import is_run, kind_of, walk

FRAMES_ENDING = ".frames"
"""Extension of the name of a folder whose images are the frames of one clip."""


@final
class FolderSource(Source):
    """The files below a folder that have one of the given extensions, or a single such file.

    If all top-level folders have split names (train, val, test, ...), they are the splits; otherwise there is
    one split, "all". If every file of a split lies in a subfolder, and there are at least two of them, or one
    that is a class of another split, the subfolders are the classes. Hidden files, files of the operating
    system, and folders below it that hold a run or the output of smalti are left out; links are followed,
    except loops. If ".frames" is among the extensions, a folder with that extension is one item.

    Args:
        path: a folder, or one file.
        extensions: extensions of the wanted files, such as ".png", in any case.

    Raises:
        InputError: if the path does not exist, is a run, or holds no wanted file.
    """

    def __init__(self, path: Path, extensions: Sequence[str]):
        listing = Listing(normal_endings(extensions))
        self._folders: dict[str, int] = {}
        kind = kind_of(path)
        if kind == "folder" and not _is_clip(path.name, listing):
            if is_run(path):
                raise InputError(
                    f"expected a folder of data, got {path}, which holds a run of smalti or the data of one: "
                    "pass the folder that the run was trained on"
                )
            self._root = path
            self._scan(listing)
        elif kind in ("file", "folder"):
            self._root = path.parent
            self._single(path, listing)
        else:
            what = "is a pipe, a socket or a device" if kind == "special" else "does not exist"
            raise InputError(f"expected a folder or a file, got {path}, which {what}: check the path")
        self._files, self._notes = listing.by_split()
        self._class_depths = class_depths(self._files)
        self.splits = ordered_splits(self._files)
        sizes = ", ".join(f"{name} {len(self._files[name]):,}" for name in self.splits)
        self.description = f"{'folder' if path.is_dir() else 'file'} {path} ({sizes})"

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return len(self._files[split])

    def items(self, split: str) -> Iterator[Item]:
        return self.section(split, 0, self.count(split))

    def section(self, split: str, begin: int, end: int) -> Iterator[Item]:
        files = self.files(split)
        return map(files.item, files.names[begin:end])

    def files(self, split: str) -> LocalFiles:
        require_split(split, self.splits, self.description)
        return LocalFiles(self._root, self._files[split], self._class_depths[split], self._folders)

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        return list(self._notes[split])

    def _scan(self, listing: Listing) -> None:
        found = walk(self._root, lambda name: _is_clip(name, listing))
        # A broken link is kept, and is then reported as an unreadable item.
        for name in (*found.files, *found.broken):
            (listing.wanted if listing.wants(name) else listing.others).append(name)
        self._folders = found.folders
        listing.closed, listing.special = found.closed, found.special
        listing.runs, listing.outputs = found.runs, found.outputs
        if not listing.wanted:
            raise listing.none_wanted(f"below {self._root}")

    def _single(self, path: Path, listing: Listing) -> None:
        if not listing.wants(path.name):
            raise InputError(
                f"expected a folder, or a file that ends in one of {some(listing.endings)}, got {path}: "
                "unpack an archive, or convert a file of another format"
            )
        listing.wanted.append(path.name)


def _is_clip(name: str, listing: Listing) -> bool:
    """Return True if a folder of this name is one item."""
    return name.lower().endswith(FRAMES_ENDING) and listing.wants(name)
