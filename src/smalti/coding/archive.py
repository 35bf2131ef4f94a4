"""The archive: one file with the entropy-coded items of a data set, and random access to blocks of them.

File names end in `.sma`; all integers are little-endian:

    8 bytes   b"SMALTI-A"
    uint32    version of the layout
    uint32    length of the header
    uint32    CRC-32 of the header
    header    JSON in UTF-8, compressed with zlib: the fields of `ArchiveInfo`
    blocks    the streams of the blocks, each a whole number of 4-byte words
    listing   JSON in UTF-8, compressed with zlib: names, and labels if the decoder reads them
    table     44 bytes per block: see `Block`
    end       uint32 number of blocks, uint32 length of the listing, uint32 CRC-32 of listing, table and the
              two numbers before, 8 bytes b"SMALTI-E"

A writer needs no more memory than one block and the names. Reading executes nothing from the file, and checks
every length against the file before memory is allocated.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO, final

from pydantic import Field, ValidationError

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.metadata import parse_json
from smalti.core.suggestions import suggestion

FORMAT = 1
"""Version of the layout, incremented when an older smalti could no longer read the files."""
ENDING = ".sma"
"""Extension of archives."""
WHAT = "images, sounds or clips compressed by a smalti model: smalti decompress RUN FILE --out DIR"
MOST_HEADER_BYTES = 1 << 20
"""Largest header, compressed or not."""
LISTING_BYTES, LISTING_RATIO = 1 << 28, 32
"""Largest text of the listing: so many bytes, or so many for each byte of a larger file."""
NAME_BYTES = 1 << 14
"""Largest mean length of the names in the listing; the longest path of a file has three quarters of it."""
MOST_BLOCK_ITEMS = 1 << 16
FREE_ITEMS, ITEMS_PER_BYTE = 1 << 16, 64
"""Most items of a file, so that a small one cannot claim a number that fills the memory with names."""

_MAGIC, _END = b"SMALTI-A", b"SMALTI-E"
_PREFIX = struct.Struct("<8sIII")
_BLOCK = struct.Struct("<IIIII24s")
_TAIL = struct.Struct("<III8s")
DIGEST_BYTES = 24
_DAMAGED = "the file is damaged or edited; copy it again, or compress the data again"

Side = Annotated[int, Field(gt=0, lt=2**31)]


@final
class ArchiveInfo(Configuration):
    """Header of an archive. The text fields of a file from elsewhere are untrusted.

    Attributes:
        lossless: True if the archive holds the exact levels, False if it holds codes only.
        model: fingerprint of the weights, hexadecimal.
        prior: name of the prior that coded the codes.
        prior_model: fingerprint of the prior's weights, or None for a prior without any.
        arithmetic: fingerprint of the probabilities and of the software that computes them.
        software: versions that the arithmetic depends on, for messages.
        num_codes: entries of each codebook.
        code_shape: shape `(G, *grid)` of the codes of one item; its second side is None if items differ.
        item_shape: shape `(C, *size)` of one item; its second side is None if items differ.
        what: the kind of file, in words.
        version: smalti version that wrote the file.
    """

    lossless: bool
    model: str
    prior: str
    prior_model: str | None
    arithmetic: str
    software: dict[str, str]
    num_codes: Annotated[int, Field(gt=0)]
    code_shape: Annotated[tuple[Side | None, ...], Field(min_length=2, max_length=9)]
    item_shape: Annotated[tuple[Side | None, ...], Field(min_length=2, max_length=9)]
    what: str = WHAT
    version: str = version("smalti")


@final
@dataclass(frozen=True)
class Block:
    """One block: consecutive items of one size, coded together.

    Attributes:
        num: number of items.
        size: bytes of its stream.
        crc: CRC-32 of its stream.
        grid_length: first side of the code grid.
        length: first side of the items after the channels.
        digest: the first 24 bytes of the SHA-256 of the content: codes, levels and labels.
    """

    num: int
    size: int
    crc: int
    grid_length: int
    length: int
    digest: bytes


@dataclass
class _Listing:
    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


@final
class ArchiveWriter(AbstractContextManager["ArchiveWriter"]):
    """Writes an archive block by block; the file appears when the context ends without an error.

    Args:
        path: of the file; an existing one is replaced.
        info: the header.
    """

    def __init__(self, path: str | Path, info: ArchiveInfo) -> None:
        self._path, self._info = Path(path), info
        self._listing, self._blocks = _Listing(), list[Block]()
        self.size = 0
        """Bytes of the whole file, once the context has ended."""

    def __enter__(self) -> ArchiveWriter:
        self._atomic = atomic_file(self._path)
        self._file = self._atomic.__enter__().open("wb")
        header = zlib.compress(self._info.model_dump_json().encode(), 9)
        self._file.write(_PREFIX.pack(_MAGIC, FORMAT, len(header), zlib.crc32(header)) + header)
        return self

    def add(
        self,
        names: Sequence[str],
        content: bytes,
        digest: bytes,
        grid_length: int,
        length: int,
        labels: Sequence[int] = (),
    ) -> None:
        """Write a block.

        Args:
            names: of its items.
            content: its stream.
            digest: of its content, 24 bytes.
            grid_length, length: see `Block`.
            labels: of its items, -1 for none; () if the decoder reads none.
        """
        self._file.write(content)
        crc = zlib.crc32(content)
        self._blocks.append(Block(len(names), len(content), crc, grid_length, length, digest))
        self._listing.names += names
        self._listing.labels += labels

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._file:
                if kind is None:
                    self._file.write(_ending(self._listing, self._blocks))
                    self.size = self._file.tell()
        except BaseException as own:
            self._atomic.__exit__(type(own), own, own.__traceback__)
            raise
        self._atomic.__exit__(kind, error, trace)


def _ending(listing: _Listing, blocks: Sequence[Block]) -> bytes:
    values: dict[str, Any] = _packed_names(listing.names)
    if any(label >= 0 for label in listing.labels):
        values["labels"] = listing.labels
    text = zlib.compress(json.dumps(values, separators=(",", ":")).encode(), 9)
    table = b"".join(
        _BLOCK.pack(each.num, each.size, each.crc, each.grid_length, each.length, each.digest)
        for each in blocks
    )
    numbers = struct.pack("<II", len(blocks), len(text))
    return text + table + numbers + struct.pack("<I8s", zlib.crc32(text + table + numbers), _END)


def _packed_names(names: list[str]) -> dict[str, Any]:
    """Return numbered names as one pattern, and others as a list."""
    first = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", names[0], re.DOTALL) if names else None
    if first is not None:
        before, digits, after = first.groups()
        numbered = [before, int(digits), len(digits), after, len(names)]
        if _numbered(*numbered) == names:
            return {"numbered": numbered}
    return {"names": names}


def _numbered(before: str, start: int, width: int, after: str, num: int) -> list[str]:
    return [f"{before}{start + index:0{width}d}{after}" for index in range(num)]


@final
class Archive(AbstractContextManager["Archive"]):
    """An archive that is open for reading. The file is untrusted.

    Args:
        path: of the file.

    Attributes:
        info: header.
        names: of all items, in order; for display and look-up, not for use as paths.
        labels: of all items; [] if the file has none.
        blocks: the blocks, in order.

    Raises:
        InputError: if it is not an archive, was written by a newer smalti, or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(
                f"expected an archive ({ENDING}), {path} is no file: make one with smalti compress"
            )
        try:
            self._file: BinaryIO = self.path.open("rb")
        except OSError as error:
            raise InputError(
                f"expected an archive, {path} cannot be read ({error.strerror}): check its permissions"
            ) from error
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, index: int) -> bytes:
        """Read the stream of a block.

        Raises:
            InputError: if its checksum differs.
        """
        block = self.blocks[index]
        content = self._at(self._offsets[index], block.size)
        if zlib.crc32(content) != block.crc:
            raise InputError(
                f"expected the checksum {block.crc:08x} of block {index} of {self.path}, received "
                f"{zlib.crc32(content):08x}: {_DAMAGED}"
            )
        return content

    def items(self, index: int) -> slice:
        """Return the numbers of the items of a block."""
        return slice(self._first[index], self._first[index] + self.blocks[index].num)

    def find(self, names: Sequence[str]) -> list[int]:
        """Return the numbers of all items of these names, in order.

        Raises:
            InputError: if there is no item of a name.
        """
        known = set(self.names)
        for name in names:
            if name not in known:
                raise InputError(
                    f"expected an item of {self.path}, received {name!r}: "
                    f"{suggestion(name, self.names, 'its items are')}"
                )
        wanted = set(names)
        return [number for number, name in enumerate(self.names) if name in wanted]

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        content = self._file.read(size)
        if len(content) != size:
            raise self._damage(f"{size} bytes at {offset}", f"{len(content)}")
        return content

    def _damage(self, expected: str, received: str) -> InputError:
        return InputError(f"expected {expected} in {self.path}, received {received}: {_DAMAGED}")

    def _open(self) -> None:
        size = self._file.seek(0, 2)
        least = _PREFIX.size + _TAIL.size
        if size < least:
            raise InputError(f"expected an archive, {self.path} has only {size} bytes: {_DAMAGED}")
        magic, layout, header_bytes, header_crc = _PREFIX.unpack(self._at(0, _PREFIX.size))
        if magic != _MAGIC:
            raise InputError(
                f"expected an archive ({ENDING}), {self.path} is not one that smalti wrote: make one with "
                "smalti compress"
            )
        if layout > FORMAT:
            raise InputError(
                f"{self.path} was written by a newer version of smalti (format {layout}; this one reads up "
                f"to {FORMAT}): run pip install -U smalti"
            )
        if layout < 1:
            raise self._damage(f"a format from 1 to {FORMAT}", str(layout))
        num, listing_bytes, crc, end = _TAIL.unpack(self._at(size - _TAIL.size, _TAIL.size))
        if end != _END:
            raise self._damage("an end mark", "another end")
        begin = size - _TAIL.size - num * _BLOCK.size - listing_bytes
        if header_bytes > MOST_HEADER_BYTES or begin < _PREFIX.size + header_bytes:
            raise self._damage(f"lengths that add up to {size} bytes", "greater ones")
        header = self._at(_PREFIX.size, header_bytes)
        listing = self._at(begin, size - _TAIL.size - begin)
        checked = listing + struct.pack("<II", num, listing_bytes)
        if zlib.crc32(header) != header_crc or zlib.crc32(checked) != crc:
            raise self._damage("a header and a listing with their checksums", "others")
        self.info = self._info(header)
        self.blocks = [Block(*each) for each in _BLOCK.iter_unpack(listing[listing_bytes:])]
        if any(not 0 < each.num <= MOST_BLOCK_ITEMS for each in self.blocks):
            raise self._damage(f"1 to {MOST_BLOCK_ITEMS} items per block", "other numbers")
        self._offsets, self._first = [_PREFIX.size + header_bytes], [0]
        for each in self.blocks:
            self._offsets.append(self._offsets[-1] + each.size)
            self._first.append(self._first[-1] + each.num)
        if self._first[-1] > FREE_ITEMS + ITEMS_PER_BYTE * size:
            raise self._damage(f"items for {size} bytes", f"{self._first[-1]}")
        if self._offsets[-1] != begin:
            raise self._damage(f"{begin} bytes before the listing", f"{self._offsets[-1]}")
        sides = self.info.code_shape[1], self.info.item_shape[1]
        for each in self.blocks:
            if any(a not in (None, b) for a, b in zip(sides, (each.grid_length, each.length), strict=True)):
                raise self._damage("blocks of the shape in the header", "others")
        most = min(NAME_BYTES * (self._first[-1] + 1), max(LISTING_BYTES, LISTING_RATIO * size))
        self.names, self.labels = self._listing(listing[:listing_bytes], self._first[-1], most)

    def _info(self, header: bytes) -> ArchiveInfo:
        try:
            values = parse_json(_decompressed(header, MOST_HEADER_BYTES))
            info = ArchiveInfo.model_validate(values)
        except (ValueError, zlib.error, ValidationError) as error:
            raise self._damage("a header", "one with other fields") from error
        if None in info.code_shape[:1] + info.code_shape[2:] + info.item_shape[:1] + info.item_shape[2:]:
            raise self._damage("sides of a known length", "others")
        return info

    def _listing(self, content: bytes, num: int, most: int) -> tuple[list[str], list[int]]:
        try:
            values = parse_json(_decompressed(content, most))
            names, labels = values.get("names"), values.get("labels", [])
            if "numbered" in values:
                before, start, width, after, count = values["numbered"]
                if count != num or not (isinstance(start, int) and isinstance(width, int)) or width > 255:
                    raise ValueError("other numbers")
                # The pattern stands for all names, so their length is bounded, not only its own.
                if num * (len(before) + len(str(start)) + width + len(after)) > most:
                    raise ValueError("longer names")
                names = _numbered(before, start, width, after, num)
            if (
                not isinstance(names, list)
                or len(names) != num
                or not all(isinstance(name, str) for name in names)
            ):
                raise ValueError("other names")
            if labels and (len(labels) != num or not all(type(label) is int for label in labels)):
                raise ValueError("other labels")
        except (ValueError, TypeError, AttributeError, zlib.error) as error:
            raise self._damage(f"the names of {num} items", "others") from error
        return names, labels


def digest(*parts: bytes) -> bytes:
    """Return the digest of a block's content."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.digest()[:DIGEST_BYTES]


def _decompressed(content: bytes, most: int) -> bytes:
    """Decompress zlib data of at most so many bytes.

    Raises:
        ValueError: if there is more.
    """
    inflater = zlib.decompressobj()
    text = inflater.decompress(content, most)
    if not inflater.eof or inflater.unused_data:
        raise ValueError("more data")
    return text
