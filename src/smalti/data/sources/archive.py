"""Tar files, read in one pass without unpacking, and the source of the files in one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath
from typing import Literal, final

from smalti.core.errors import InputError
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import SPLIT_NAMES, ordered_splits, require_split
from smalti.data.sources.listing import Listing, class_depths, ignored, normal_endings
from smalti.data.sources.walk import is_hidden

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")

DECOMPRESSORS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"BZh": bz2.open,
}
"""First bytes of a compressed file and the function that opens it. Names are unreliable: browsers decompress
downloads, and users rename files."""

MOST_BYTES = 256 << 20
"""Size limit of a member: far more than an image has, and small enough for any machine's memory."""

HEADER_BYTES = 1 << 20
"""Size limit of a member's name or list of properties, which tarfile reads in one piece."""

HEADERS_OF_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)

BROKEN = (tarfile.TarError, OSError, EOFError, ValueError, RecursionError, zlib.error, lzma.LZMAError)
"""Exceptions that tarfile and the decompressors raise for damaged or malicious files."""


@final
class TarSource(Source):
    """The files in a tar file that have one of the given extensions, read without unpacking to disk.

    Splits and classes follow the rules of `FolderSource`, relative to the deepest folder that holds all of
    these files. Items come in the order of the archive, in one pass. Hidden files, links, and files larger
    than 256 MiB are left out; of members with the same name, the last one is used, as in unpacking.

    Args:
        path: the tar file, plain or compressed by gzip, xz or bzip2.
        extensions: extensions of the wanted files, such as ".png", in any case.

    Raises:
        InputError: if the archive is damaged or truncated, or holds no wanted file.
    """

    def __init__(self, path: Path, extensions: Sequence[str]):
        self._path = path
        listing = Listing(normal_endings(extensions))
        self._numbers, links, large, outside = _scan(path, listing)
        if not listing.wanted:
            raise listing.none_wanted(f"in {path}")
        self._top = _common_folders(listing.wanted)
        listing.wanted = [name.removeprefix(self._top) for name in listing.wanted]
        listing.others = [name.removeprefix(self._top) for name in listing.others]
        self._files, self._notes = listing.by_split()
        self._class_depths = class_depths(self._files)
        self.splits = ordered_splits(self._files)
        self._notes[self.splits[0]] += ignored(links, "link", "in the archive")
        self._notes[self.splits[0]] += ignored(large, "file", f"of more than {MOST_BYTES >> 20} MiB")
        self._notes[self.splits[0]] += ignored(outside, "file", "whose path leads out of its folder")
        sizes = ", ".join(f"{name} {len(self._files[name]):,}" for name in self.splits)
        self.description = f"archive {path} ({sizes})"

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return True for a file with the extension of a tar file."""
        return path.is_file() and path.name.lower().endswith(TAR_ENDINGS)

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return len(self._files[split])

    def items(self, split: str) -> Iterator[Item]:
        return self.section(split, 0, self.count(split))

    def section(self, split: str, begin: int, end: int) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        names = dict(islice(self._in_order(split).items(), begin, end))
        last = max(names, default=-1)
        if last < 0:
            return
        with closing(read_members(self._path)) as members:
            for number, (_, read) in enumerate(members):
                if number in names:
                    yield self._item(split, names[number], read())
                if number == last:
                    return

    def annotations(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        return (self._item(split, name, b"") for name in self._in_order(split).values())

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        return list(self._notes[split])

    def _in_order(self, split: str) -> dict[int, str]:
        """Names of the files of a split by the numbers of their members, in ascending order."""
        names = {self._numbers[self._top + file]: file for file in self._files[split]}
        return dict(sorted(names.items()))

    def _item(self, split: str, name: str, content: bytes) -> Item:
        depth = self._class_depths[split]
        return Item(name, content, None if depth is None else PurePosixPath(name).parts[depth])


def read_members(path: Path) -> Generator[tuple[tarfile.TarInfo, Callable[[], bytes]], None, None]:
    """Yield the members of a tar file, each with a function that reads it.

    Call that function before drawing the next member.

    Raises:
        InputError: if the file is damaged, truncated, or not a tar file; the function raises it too, also for
            a member larger than `MOST_BYTES`.
    """
    try:
        with (
            _decompressed(path) as stream,
            # Stream mode ("r|") never seeks: a step back in a compressed file decompresses it from the start.
            # In a plain file, members that nobody reads are passed over.
            tarfile.open(
                fileobj=stream, mode=_mode(stream), encoding="utf-8", tarinfo=_StrictHeader
            ) as archive,
        ):
            while (member := archive.next()) is not None:
                yield member, _reader(archive, member, path)
                # tarfile keeps every header that it has read, and large data sets have millions.
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            # The checksum of a compressed file is verified only at its end.
            while stream.read(1 << 20):
                pass
    except BROKEN as error:
        raise _broken(path, error) from error


def is_plain_file(member: tarfile.TarInfo) -> bool:
    """Return True for a regular file whose content is stored completely (not a link, not sparse)."""
    return member.isreg() and not member.issparse()


@final
class _StrictHeader(tarfile.TarInfo):
    """Header that raises an error if damaged or missing, which tarfile takes for the end of the archive.

    It also refuses a header that announces more than `HEADER_BYTES` of text about a member.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictHeader:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            is_end = len(buf) == tarfile.BLOCKSIZE and not any(buf)
            if is_end:
                raise
            raise tarfile.ReadError(str(error)) from error
        if header.type in HEADERS_OF_HEADERS and header.size > HEADER_BYTES:
            raise tarfile.ReadError(f"header of {header.size:,} bytes")
        return header


def _decompressed(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as file:
        start = file.read(max(map(len, DECOMPRESSORS)))
    return next((open_ for magic, open_ in DECOMPRESSORS.items() if start.startswith(magic)), _plain)(path)


def _mode(stream: io.BufferedIOBase) -> Literal["r:", "r|"]:
    return "r:" if isinstance(stream, io.BufferedReader) else "r|"


def _plain(path: Path) -> io.BufferedIOBase:
    return path.open("rb")


def _reader(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        if member.size > MOST_BYTES:
            raise InputError(
                f"expected at most {MOST_BYTES:,} bytes in {member.name} of {path}, got {member.size:,}: it "
                "is not the original file, download it again"
            )
        try:
            content = archive.extractfile(member)
            return b"" if content is None else content.read()
        except BROKEN as error:
            raise _broken(path, error) from error

    return read


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(
        f"expected a complete tar file, got {path}, which is truncated, damaged or of another format "
        f"({str(error) or type(error).__name__}): download it again"
    )


def _scan(path: Path, listing: Listing) -> tuple[dict[str, int], list[str], list[str], list[str]]:
    """Add the members of an archive to a listing.

    Returns:
        The member number of each wanted file, the wanted names that are links, those of files that are too
        large, and those with "..".
    """
    numbers: dict[str, int] = {}
    links: list[str] = []
    large: list[str] = []
    outside: list[str] = []
    for number, (member, _) in enumerate(read_members(path)):
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        name = "/".join(parts)
        if member.isdir() or any(is_hidden(part) for part in parts if part != ".."):
            continue
        if ".." in parts:
            outside += [name] if listing.wants(name) else []
        elif not listing.wants(name):
            listing.others.append(name)
        elif not is_plain_file(member):
            links.append(name)
        elif member.size > MOST_BYTES:
            large.append(name)
        else:
            numbers[name] = number
    listing.wanted = list(numbers)
    return numbers, links, large, outside


def _common_folders(files: Sequence[str]) -> str:
    """Return the folders "a/b/" that hold all files, stopping before a split name; "" if there are none."""
    folders = posixpath.commonpath([posixpath.dirname(file) for file in files]).split("/")
    return "".join(
        f"{name}/" for name in takewhile(lambda name: name.lower() not in SPLIT_NAMES, folders) if name
    )
