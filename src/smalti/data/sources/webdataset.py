"""WebDataset shards: tar files in which the members of a sample share the name before the first dot."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import final

from smalti.core.errors import InputError
from smalti.core.metadata import parse_json
from smalti.data.sources.archive import TAR_ENDINGS, is_plain_file, read_members
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import LABEL_COLUMNS, class_name, ordered_splits, require_split
from smalti.data.sources.listing import normal_endings, some
from smalti.data.sources.parquet import files_by_split
from smalti.data.sources.walk import is_hidden, walk

CLASS_FILE, FIELDS_FILE = "cls", "json"
"""Members that may state the class of a sample: as text, or as a field of an object."""
BESIDE = ("readme.md", "sizes.json", "dataset.json")
"""Files that stand beside shards, in lower case."""
PEEKED = 16
"""Members of a single tar file by which it is recognised."""

Member = tuple[str, str, Callable[[], bytes]]
"""Key, extension without the dot, and reader of a member."""


@final
class WebDatasetSource(Source):
    """The tar files of a folder, or a single one whose samples have classes in `.cls` members.

    A sample is a run of members with the same key, the path before the first dot of the file name. Its signal
    is the first member with one of the extensions; its class is that of a member `cls`, or a field such as
    `label` of a member `json`. Samples without a signal are left out. The split is stated by the files' names
    or folders, as for Parquet files.

    Args:
        path: the folder or the file.
        extensions: extensions of signals, such as ".png", in any case.

    Raises:
        InputError: if a file is damaged, or no sample has a signal.
    """

    def __init__(self, path: Path, extensions: Sequence[str]) -> None:
        self._endings = normal_endings(extensions)
        self._root = path if path.is_dir() else path.parent
        files = _tar_files(path) if path.is_dir() else [path]
        self._is_single = not path.is_dir()
        self._files = files_by_split(files, self._root)
        self.splits = ordered_splits(self._files)
        self._num = {file: self._num_samples(file) for file in files}
        self._counts = {split: sum(self._num[file] for file in self._files[split]) for split in self.splits}
        if not any(self._counts.values()):
            raise InputError(
                f"expected samples with a member that ends in one of {some(self._endings)} in {path}, found "
                "none: check the files"
            )
        sizes = ", ".join(f"{name} {self._counts[name]:,}" for name in self.splits)
        self.description = f"WebDataset {path} ({sizes})"

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return True for a folder of tar files, or a tar file that begins with a sample of a class."""
        if path.is_dir():
            names = [name for name in walk(path).files if posixpath.basename(name).lower() not in BESIDE]
            return bool(names) and all(name.lower().endswith(TAR_ENDINGS) for name in names)
        if not (path.is_file() and path.name.lower().endswith(TAR_ENDINGS)):
            return False
        try:
            with closing(_members(path)) as members:
                return any(ending == CLASS_FILE for _, ending, _ in islice(members, PEEKED))
        except InputError:
            return False

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return self._counts[split]

    def items(self, split: str) -> Iterator[Item]:
        return self.section(split, 0, self.count(split))

    def section(self, split: str, begin: int, end: int) -> Iterator[Item]:
        return self._section(split, begin, end, has_contents=True)

    def annotations(self, split: str) -> Iterator[Item]:
        return self._section(split, 0, self.count(split), has_contents=False)

    def _section(self, split: str, begin: int, end: int, has_contents: bool) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        first = 0
        for file in self._files[split]:
            last = first + self._num[file]
            if first < end and begin < last:
                yield from self._samples(
                    file, max(begin, first) - first, min(end, last) - first, has_contents
                )
            first = last

    def _num_samples(self, file: Path) -> int:
        """Number of samples with a signal."""
        num, sample = 0, _Sample("")
        with closing(_members(file)) as members:
            for key, ending, _ in members:
                sample = sample if key == sample.key else _Sample(key)
                if self._is_signal(ending) and sample.content is None:
                    sample.content = b""
                    num += 1
        return num

    def _samples(self, file: Path, begin: int, end: int, has_contents: bool) -> Iterator[Item]:
        """Yield samples `begin` to `end` of a file; the members of others are not read."""
        place = "" if self._is_single else f"{file.relative_to(self._root).as_posix()}/"
        index, sample = 0, _Sample("")
        with closing(_members(file)) as members:
            for key, ending, read in members:
                if key != sample.key:
                    if sample.content is not None and index >= begin:
                        yield sample.item(place)
                    index += sample.content is not None
                    sample = _Sample(key)
                if index == end:
                    return
                if self._is_signal(ending) and sample.content is None:
                    sample.name = f"{key}.{ending}"
                    sample.content = read() if has_contents and index >= begin else b""
                elif ending in (CLASS_FILE, FIELDS_FILE) and index >= begin:
                    sample.label = _label(ending, read()) or sample.label
        if sample.content is not None and begin <= index < end:
            yield sample.item(place)

    def _is_signal(self, ending: str) -> bool:
        return f".{ending.rpartition('.')[2].lower()}" in self._endings


@final
class _Sample:
    """Members of a sample that were read so far."""

    def __init__(self, key: str) -> None:
        self.key, self.name = key, key
        self.content: bytes | None = None
        self.label: str | None = None

    def item(self, place: str) -> Item:
        return Item(f"{place}{self.name}", self.content or b"", self.label)


def _members(path: Path) -> Generator[Member, None, None]:
    with closing(read_members(path)) as members:
        for member, read in members:
            split = _split_name(member)
            if split is not None:
                yield *split, read


def _split_name(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Key and extension of a member; None for what is no file of a sample."""
    folder, name = posixpath.split(member.name.removeprefix("./"))
    stem, dot, ending = name.partition(".")
    if not is_plain_file(member) or is_hidden(name) or not dot:
        return None
    return posixpath.join(folder, stem), ending


def _label(ending: str, content: bytes) -> str | None:
    """Class that a member states; None if it states none."""
    text = content.decode("utf-8", "backslashreplace").strip()
    if ending == CLASS_FILE:
        return text or None
    try:
        fields = parse_json(text)
    except ValueError:
        return None
    values = [fields.get(name) for name in LABEL_COLUMNS] if isinstance(fields, dict) else []
    return next((class_name(value) for value in values if isinstance(value, str | int)), None)


def _tar_files(folder: Path) -> list[Path]:
    names = sorted(walk(folder).files)
    return [folder / name for name in names if name.lower().endswith(TAR_ENDINGS)]
