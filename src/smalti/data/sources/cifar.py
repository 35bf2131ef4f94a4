"""CIFAR-10 and CIFAR-100 as published: the archives, or the folders unpacked from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np

from smalti.core.errors import InputError
from smalti.data.sources.archive import TarSource, is_plain_file, read_members
from smalti.data.sources.base import Item, Source
from smalti.data.sources.cifar_versions import VERSIONS, Batch, Version
from smalti.data.sources.conventions import class_name, require_split

IMAGES = {"train": 50_000, "test": 10_000}
"""Number of images of each split in every complete version."""


@final
class CifarSource(Source):
    """CIFAR-10, or CIFAR-100 with its 100 fine classes, with exact pixels in the published order.

    The pickles of the Python version are read without executing anything from them. Archives are read in
    memory, never unpacked to disk.

    Args:
        path: an archive such as `cifar-10-python.tar.gz` or `cifar-10-binary.tar.gz`, the folder unpacked
            from it, or a folder that holds one of these.

    Raises:
        InputError: if neither or both of the data sets are found, a file is missing, damaged, truncated or
            far too large, or a pickle names anything but arrays and lists.
    """

    def __init__(self, path: Path):
        found = _find(path)
        datasets = sorted({version.dataset for version, _ in found})
        if len(datasets) != 1:
            raise InputError(
                f"expected the files of CIFAR-10 or of CIFAR-100 in {path}, got "
                f"{'those of both' if datasets else 'neither'}: pass the archive or the folder itself"
            )
        self._version, self._place = found[0]
        self._names: list[str] | None = None
        sizes: dict[str, int] = {}
        for name, content in self._read((*self._version.files, self._version.meta)):
            if name == self._version.meta:
                self._names = self._version.read_names(content, self._called(name))
            else:
                sizes[name] = len(self._version.read_batch(content, self._called(name)).labels)
        missing = [name for name in self._version.files if name not in sizes]
        if missing:
            raise InputError(f"expected {self._called(missing[0])}, got no such file: download it again")
        batches = self._version.batches
        self._counts = {split: sum(sizes[name] for name in batches[split]) for split in batches}
        self.splits = tuple(batches)
        counts = ", ".join(f"{split} {count:,}" for split, count in self._counts.items())
        self.description = f"{self._version.dataset} {self._place} ({counts})"

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return True if this is, or directly holds, a CIFAR archive or the folder unpacked from one."""
        return bool(_find(path))

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return self._counts[split]

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        index = 0
        for batch in self._batches(self._version.batches[split]):
            for image, label in zip(batch.images, batch.labels, strict=True):
                name = f"{split}/{index:05d}"
                yield Item(name, np.ascontiguousarray(image), class_name(label, self._names))
                index += 1

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        notes = []
        if self._counts[split] != IMAGES[split]:
            notes.append(
                f"{self._version.dataset} has {IMAGES[split]:,} images in {split}, this copy has "
                f"{self._counts[split]:,}"
            )
        if self._names is None:
            notes.append(f"{self._version.meta} is missing: class names are numbers")
        return notes

    def _batches(self, names: Sequence[str]) -> Iterator[Batch]:
        """Yield the batches in order, keeping those that come too early in an archive until their turn."""
        waiting = list(names)
        early: dict[str, bytes] = {}
        for name, content in self._read(names):
            early[name] = content
            while waiting and waiting[0] in early:
                name = waiting.pop(0)
                yield self._version.read_batch(early.pop(name), self._called(name))

    def _read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the names and contents of the files that exist, in the order in which they are stored."""
        if self._place.is_dir():
            for name in names:
                if (self._place / name).is_file():
                    self._require_size(name, (self._place / name).stat().st_size)
                    yield name, (self._place / name).read_bytes()
            return
        with closing(read_members(self._place)) as members:
            for member, read in members:
                file = PurePosixPath(member.name)
                if file.parent.name == self._version.folder and file.name in names and is_plain_file(member):
                    self._require_size(file.name, member.size)
                    yield file.name, read()

    def _require_size(self, name: str, size: int) -> None:
        """Refuse a file that is too large: a few kB of an archive can expand to many GB."""
        if size > (most := self._version.most_bytes(name)):
            raise InputError(
                f"expected at most {most:,} bytes in {self._called(name)}, got {size:,}: it is not the "
                "original file, download it again"
            )

    def _called(self, name: str) -> str:
        return f"{name} of {self._place}"


def _find(path: Path) -> list[tuple[Version, Path]]:
    """Return the versions that a path is or directly holds, with their places, unpacked folders first."""
    if path.is_file():
        folder = _first_folder(path) if TarSource.accepts(path) else None
        return [(version, path) for version in VERSIONS if version.folder == folder]
    if any(_lies_in(path, version) for version in VERSIONS):
        return [(version, path) for version in VERSIONS if _lies_in(path, version)]
    folders = [(version, path / version.folder) for version in VERSIONS]
    archives = [(version, path / version.archive) for version in VERSIONS]
    return [
        *((version, folder) for version, folder in folders if _lies_in(folder, version)),
        *((version, archive) for version, archive in archives if archive.is_file()),
    ]


def _lies_in(folder: Path, version: Version) -> bool:
    """Return True if a folder was unpacked from this version, judged by its name or its files."""
    return folder.is_dir() and (
        folder.name == version.folder or all((folder / name).is_file() for name in version.marks)
    )


def _first_folder(archive: Path) -> str | None:
    """Return the name of the folder of an archive's first file, which identifies a renamed archive."""
    try:
        with closing(read_members(archive)) as members:
            first = next((member.name for member, _ in members if is_plain_file(member)), "")
    except InputError:
        return None
    return PurePosixPath(first).parent.name
