"""Files in folders, whatever their layout."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import final

from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import SPLIT_NAMES, ordered_splits, require_split
from smalti.interfaces import InputError


@dataclass
class _Listing:
    """Relative POSIX paths below a folder: wanted files, other files, folders that could not be opened."""

    wanted: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


@final
class FolderSource(Source):
    """The files below a folder whose names end in one of some extensions, or one such file.

    Top-level folders that are all called train, val, test and the like are the splits; anything else is one
    split, "all". Where every file of a split lies in a subfolder, and there are at least two of those, the
    subfolder is the class. Hidden files and folders are left out; links are followed, loops are not.

    Args:
        path: a folder, or one file.
        extensions: endings of the wanted files, such as ".png"; case does not matter.

    Raises:
        InputError: when there is no such path, or no wanted file in it.
    """

    def __init__(self, path: Path, extensions: Sequence[str]):
        self._extensions = tuple(sorted({f".{text.lower().lstrip('.')}" for text in extensions}))
        if path.is_dir():
            self._root = path
            listing = self._scan()
        elif path.exists():
            self._root = path.parent
            listing = self._single(path)
        else:
            raise InputError(f"expected a folder or a file, got {path}, which does not exist: check the path")
        self._files, self._notes = self._split(listing)
        self.splits = ordered_splits(self._files)
        sizes = ", ".join(f"{name} {len(self._files[name]):,}" for name in self.splits)
        self.description = f"{'folder' if path.is_dir() else 'file'} {path} ({sizes})"

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return len(self._files[split])

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        files = self._files[split]
        # A file is SPLIT/CLASS/..., or CLASS/... where there are no splits.
        depth = 0 if split == "all" else 1
        labelled = _are_classes(files, depth)
        for file in files:
            yield Item(file, self._root / file, PurePosixPath(file).parts[depth] if labelled else None)

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        return list(self._notes[split])

    def _scan(self) -> _Listing:
        listing = _Listing()
        self._walk(self._root, "", frozenset(), listing)
        if not listing.wanted:
            raise InputError(self._none_wanted(listing))
        return listing

    def _walk(self, folder: Path, prefix: str, above: frozenset[tuple[int, int]], listing: _Listing) -> None:
        """List a folder. `above` identifies the folders that it lies in, so that a loop of links ends."""
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
            if entry.is_dir():
                self._walk(Path(entry.path), f"{prefix}{entry.name}/", above | {identity}, listing)
            elif self._is_wanted(entry.name) and (entry.is_file() or entry.is_symlink()):
                # A link that leads nowhere is kept: it is then told as an unreadable item.
                listing.wanted.append(prefix + entry.name)
            else:
                listing.others.append(prefix + entry.name)

    def _single(self, path: Path) -> _Listing:
        if not self._is_wanted(path.name):
            raise InputError(
                f"expected a folder, or a file that ends in one of {self._endings()}, got {path}: "
                "unpack an archive, convert a file of another format"
            )
        return _Listing(wanted=[path.name])

    def _is_wanted(self, name: str) -> bool:
        return os.path.splitext(name)[1].lower() in self._extensions

    def _endings(self) -> str:
        return ", ".join(self._extensions)

    def _none_wanted(self, listing: _Listing) -> str:
        endings = Counter(os.path.splitext(name)[1].lower() or "no extension" for name in listing.others)
        if endings:
            received = f"only {', '.join(f'{n:,} of {ending}' for ending, n in endings.most_common(5))}"
        elif listing.closed:
            received = f"no file, and folders that cannot be opened, such as {listing.closed[0]}"
        else:
            received = "no file at all"
        return (
            f"expected files that end in one of {self._endings()} below {self._root}, found {received}: "
            "name the folder that holds the data, or convert the files"
        )

    def _split(self, listing: _Listing) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Wanted files by split, and notes by split."""
        tops = {file.split("/", 1)[0] for file in listing.wanted if "/" in file}
        # Folders without a wanted file (documents, annotations) have no say in what the others are.
        has_splits = bool(tops) and all(top.lower() in SPLIT_NAMES for top in tops)

        def split_of(file: str) -> str | None:
            if not has_splits:
                return "all"
            return SPLIT_NAMES.get(file.split("/", 1)[0].lower()) if "/" in file else None

        files = _group(listing.wanted, split_of)
        outside = files.pop(None, [])
        others = _group(listing.others, split_of)
        closed = _group(listing.closed, lambda folder: split_of(f"{folder}/"))
        splits = ordered_splits(name for name in files if name is not None)
        notes: dict[str, list[str]] = {
            split: [
                *_told(others.get(split, []), "file", f"whose extension is none of {self._endings()}"),
                *_told(closed.get(split, []), "folder", "that cannot be opened"),
            ]
            for split in splits
        }
        # What belongs to no split is told once, with the first of them.
        notes[splits[0]] += [
            *_told(outside, "file", "of a known extension, but outside the folders of the splits,"),
            *_told(others.get(None, []), "file", "outside the folders of the splits"),
            *_told(closed.get(None, []), "folder", "that cannot be opened"),
        ]
        return {split: files[split] for split in splits}, notes


def _group(files: Sequence[str], key) -> dict[str | None, list[str]]:
    """Files by what `key` says of them, each group sorted."""
    groups: dict[str | None, list[str]] = {}
    for file in sorted(files):
        groups.setdefault(key(file), []).append(file)
    return groups


def _told(files: Sequence[str], noun: str, what: str) -> list[str]:
    """A note on ignored files, or none where there are none."""
    if not files:
        return []
    if len(files) == 1:
        return [f"1 {noun} {what} was ignored: {files[0]}"]
    return [f"{len(files):,} {noun}s {what} were ignored, the first of them {files[0]}"]


def _are_classes(files: Sequence[str], depth: int) -> bool:
    """Whether every file lies in a subfolder at this depth, and there are at least two of those."""
    parts = [file.split("/") for file in files]
    return all(len(names) > depth + 1 for names in parts) and len({names[depth] for names in parts}) > 1
