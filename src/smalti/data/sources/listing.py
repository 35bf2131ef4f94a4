"""Assign the files of a folder or an archive to splits and classes by their paths."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from smalti.core.errors import InputError
from smalti.data.sources.conventions import SPLIT_NAMES, ordered_splits

FEW_SHARE = 0.1
"""Largest share of files beside folders that is probably a mistake."""


@dataclass
class Listing:
    """Contents of a folder or an archive, as relative POSIX paths.

    Attributes:
        endings: extensions of the wanted files, from `normal_endings`.
        wanted: files with these extensions.
        others: files with other extensions.
        closed: folders that could not be opened.
        runs: folders that hold a run of smalti.
        outputs: folders that commands of smalti have written into.
        special: pipes, sockets and devices.
    """

    endings: tuple[str, ...]
    wanted: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)

    def wants(self, name: str) -> bool:
        """Return True if a file name has one of the wanted extensions, in any case."""
        return os.path.splitext(name)[1].lower() in self.endings

    def none_wanted(self, place: str) -> InputError:
        """Return the error for a place ("below FOLDER") without wanted files; it states what was found."""
        found = Counter(os.path.splitext(name)[1].lower() or "no extension" for name in self.others)
        if found:
            received = f"only {', '.join(f'{n:,} of {ending}' for ending, n in found.most_common(5))}"
        elif self.closed:
            received = f"no files, and folders that cannot be opened, such as {self.closed[0]}"
        elif self.runs or self.outputs:
            received = f"no files but those that smalti wrote, such as in {[*self.runs, *self.outputs][0]}"
        else:
            received = "no files"
        return InputError(
            f"expected files that end in one of {some(self.endings)} {place}, found {received}: "
            "pass the folder that holds the data, or convert the files"
        )

    def by_split(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return the wanted files by split, sorted, and notes by split.

        If all top-level folders have split names (train, val, test, ...), they are the splits; otherwise
        there is one split, "all". At least one wanted file is required.
        """
        tops = {file.split("/", 1)[0] for file in self.wanted if "/" in file}
        # Folders without wanted files (documents, annotations) are not considered.
        has_splits = bool(tops) and all(top.lower() in SPLIT_NAMES for top in tops)

        def split_of(file: str) -> str | None:
            if not has_splits:
                return "all"
            return SPLIT_NAMES.get(file.split("/", 1)[0].lower()) if "/" in file else None

        files = _group(self.wanted, split_of)
        outside = files.pop(None, [])
        others = _group(self.others, split_of)
        closed = _group(self.closed, lambda folder: split_of(f"{folder}/"))
        splits = ordered_splits(name for name in files if name is not None)
        notes: dict[str, list[str]] = {
            split: [
                *left_out(others.get(split, [])),
                *ignored(closed.get(split, []), "folder", "that cannot be opened"),
                *_beside_classes(files[split], split),
            ]
            for split in splits
        }
        # Notes that belong to no split are listed once, with the first split.
        notes[splits[0]] += [
            *ignored(outside, "file", "of a known extension, but outside the folders of the splits,"),
            *ignored(others.get(None, []), "file", "outside the folders of the splits"),
            *ignored(closed.get(None, []), "folder", "that cannot be opened"),
            *_not_splits(tops, has_splits),
            *ignored(sorted(self.runs), "folder", "with a run of smalti"),
            *ignored(sorted(self.outputs), "folder", "into which smalti has written files"),
            *ignored(sorted(self.special), "entry", "that is a pipe, a socket or a device"),
        ]
        return {split: files[split] for split in splits}, notes


def normal_endings(extensions: Iterable[str]) -> tuple[str, ...]:
    """Return the extensions in lower case with a leading dot, sorted."""
    return tuple(sorted({f".{text.lower().lstrip('.')}" for text in extensions}))


def some(endings: Sequence[str], most: int = 16) -> str:
    """List endings, the common ones first and not all of a long list."""
    common = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".avif")
    listed = sorted(endings, key=lambda ending: ending not in common) if len(endings) > most else endings
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def class_depths(files: Mapping[str, Sequence[str]]) -> dict[str, int | None]:
    """Return for each split the index of the path component that is the class, or None without classes.

    Paths are SPLIT/CLASS/..., or CLASS/... without splits. Folders are classes if every file of the split
    lies in one, and there are at least two, or only one that is a class of another split.

    Args:
        files: paths by split.
    """
    folders: dict[str, set[str]] = {}
    for split, names in files.items():
        depth = _depth(split)
        if all(name.count("/") > depth for name in names):
            folders[split] = {name.split("/")[depth] for name in names}
    classes = {name for several in folders.values() if len(several) > 1 for name in several}
    return {split: _depth(split) if folders.get(split, {""}) <= classes else None for split in files}


def _not_splits(tops: Collection[str], has_splits: bool) -> list[str]:
    """Return a note if folders have names of splits but are none, because of other folders; [] otherwise."""
    named = sorted(top for top in tops if top.lower() in SPLIT_NAMES)
    if has_splits or len({SPLIT_NAMES[top.lower()] for top in named}) < 2:
        return []
    other = min(set(tops).difference(named))
    return [
        f"The folders {', '.join(named)} are not splits, since there are others beside them, such as {other}"
    ]


def _depth(split: str) -> int:
    return 0 if split == "all" else 1


def _beside_classes(files: Sequence[str], split: str) -> list[str]:
    """Return a note if a few files outside the subfolders keep these from being classes; [] otherwise."""
    depth = _depth(split)
    outside = [file for file in files if file.count("/") <= depth]
    folders = {file.split("/")[depth] for file in files if file.count("/") > depth}
    if not outside or len(outside) > FEW_SHARE * len(files) or len(folders) < 2:
        return []
    lie = "1 file lies" if len(outside) == 1 else f"{len(outside):,} files lie"
    return [f"The {len(folders):,} folders are not classes, since {lie} beside them, such as {outside[0]}"]


def ignored(files: Sequence[str], singular: str, what: str) -> list[str]:
    """Return a note on ignored files, or an empty list if there are none."""
    if not files:
        return []
    if len(files) == 1:
        return [f"1 {singular} {what} was ignored: {files[0]}"]
    return [f"{len(files):,} {singular}s {what} were ignored, the first of them {files[0]}"]


def left_out(files: Sequence[str], most: int = 5) -> list[str]:
    """Return a note on files whose endings are not read, with their number by ending; [] without files."""
    if not files:
        return []
    endings = Counter(os.path.splitext(name)[1].lower() or "without an ending" for name in files)
    ranked = sorted(endings.items(), key=lambda one: (-one[1], one[0]))
    counts = [f"{num:,} {ending}" for ending, num in ranked[:most]]
    if len(ranked) > most:
        counts.append(f"{sum(num for _, num in ranked[most:]):,} others")
    noun = "file was" if len(files) == 1 else "files were"
    return [f"{len(files):,} {noun} left out ({', '.join(counts)}), such as {files[0]}"]


def _group(files: Sequence[str], key: Callable[[str], str | None]) -> dict[str | None, list[str]]:
    """Group files by the value of `key`, each group sorted."""
    groups: dict[str | None, list[str]] = {}
    for file in sorted(files):
        groups.setdefault(key(file), []).append(file)
    return groups
