"""The packed file format for the codes of one item: a header, then ceil(log2 K) bits per code.

One file holds the codes of one compressed sound, image or clip; for the codes of a data set, use the Parquet
table of `smalti.data.codes`. File names end in `.smc`, and all integers are little-endian:

    7 bytes   b"SMALTI\\0"
    uint8     version of the layout
    uint32    length of the header
    header    JSON in UTF-8, the fields of `PackedInfo`
    payload   codes, most significant bit first, ordered by position (row-major over the grid) and then by
              codebook, which is the order of priors; zero bits fill the last byte
    uint32    CRC-32 of everything before it

Reading executes nothing from the file, and the sizes in its header are checked before memory is allocated.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, final

import numpy as np
from jaxtyping import Int64
from pydantic import Field, ValidationError
from pydantic_core import PydanticSerializationError

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.metadata import parse_json

FORMAT = 2
"""Version of the layout, incremented when an older smalti could no longer read the files. Files of version 1
have one side, `length`, in place of `size`."""
ENDING = ".smc"
"""Extension of packed files."""

_MAGIC = b"SMALTI\0"
_PREFIX = struct.Struct("<7sBI")
_CHECKSUM = struct.Struct("<I")
_MAX_HEADER_BYTES = 1 << 20
_MAX_FREE_CODES = 1 << 20
"""Largest number of codes of a one-entry codebook: they take no bits, so file size does not bound them."""
_CHUNK_CODES = 1 << 16
"""Codes unpacked into single bits at a time; a multiple of 8, so that chunks end at a byte boundary."""
_WORD_BITS = 32
_DAMAGED = "the file is damaged or edited; copy it again, or encode the item again"

_Count = Annotated[int, Field(gt=0, lt=2**63)]


@final
class Units(Configuration):
    """Units over which the bit rate of an item is computed.

    Attributes:
        seconds: duration of the item.
    """

    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]


@final
class PackedInfo(Configuration):
    """Header of a packed file. The text fields of a file from elsewhere are untrusted.

    Attributes:
        num_codes: entries of each codebook, K; codes are in [0, num_codes).
        num_codebooks: codes at each position, G.
        grid: shape of the grid of code positions.
        model: fingerprint of the tokenizer, hexadecimal.
        name: name of the item, for display only: never use it as a path to write to.
        label: class name of the item, or None.
        units: units of the bit rate, or None if only bits/dim is meaningful.
        size: sides of the original along the axes in which items differ: the samples of a sound, the height
            and width of a picture of its native size; None if items have one size.
        version: smalti version that wrote the file.
    """

    num_codes: Annotated[int, Field(gt=0, lt=2**31)]
    num_codebooks: _Count
    # NumPy limits the number of axes and raises its own errors beyond that.
    grid: Annotated[tuple[_Count, ...], Field(max_length=8)]
    model: str
    name: str
    label: str | None = None
    units: Units | None = None
    size: Annotated[tuple[_Count, ...], Field(min_length=1, max_length=8)] | None = None
    version: str = version("smalti")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the codes, `(G, *grid)`."""
        return (self.num_codebooks, *self.grid)


@final
@dataclass(frozen=True, eq=False)
class PackedCodes:
    """Content of a packed file.

    Attributes:
        info: header of the file.
        codes: int64 `(G, *grid)`.
    """

    info: PackedInfo
    codes: Int64[np.ndarray, " g *grid"]


def bits_of(info: PackedInfo) -> int:
    """Return the payload bits, G · prod(grid) · ceil(log2 K): the size of the item without a prior."""
    return math.prod(info.shape) * _width(info)


def overhead(info: PackedInfo) -> int:
    """Return the bytes of the file that are not payload: prefix, header and checksum."""
    return _PREFIX.size + len(_header(info)) + _CHECKSUM.size


def pack(codes: Int64[np.ndarray, " g *grid"], info: PackedInfo) -> bytes:
    """Return the content of a packed file: `overhead(info)` bytes plus ceil(`bits_of(info)` / 8).

    Args:
        codes: int64 `(G, *grid)`, in [0, K).
        info: header of the file.

    Raises:
        InputError: if the codes are out of range or differ in shape from `info`, if the name or the label is
            not valid Unicode, or if the header is larger than 1 MiB.
    """
    if codes.shape != info.shape:
        raise InputError(
            f"expected codes of shape {info.shape}, received {codes.shape}: encode the item again"
        )
    _check_free(info, "the codes to write")
    _check_range(codes, info, "the codes to write")
    header = _header(info)
    if len(header) > _MAX_HEADER_BYTES:
        raise InputError(
            f"expected a header of at most {_MAX_HEADER_BYTES} bytes, received {len(header)}: "
            f"give the item a shorter name and label"
        )
    symbols = np.moveaxis(codes, 0, -1).reshape(-1)
    body = b"".join(
        [_PREFIX.pack(_MAGIC, FORMAT, len(header)), header, _symbols_to_bytes(symbols, _width(info))]
    )
    return body + _CHECKSUM.pack(zlib.crc32(body))


def unpack(content: bytes, where: str | Path) -> PackedCodes:
    """Read the codes from the content of a packed file. The content is untrusted, and all of it is checked.

    Args:
        content: the whole file.
        where: name of the file in error messages.

    Raises:
        InputError: if it is not a packed file, was written by a newer smalti, or is damaged.
    """
    header, payload = _split(content, where)
    info = _parse_info(header, content[len(_MAGIC)], where)
    _check_free(info, where)
    expected_bytes = -(-bits_of(info) // 8)
    if len(payload) != expected_bytes:
        raise InputError(
            f"expected {expected_bytes} bytes of codes in {where} (shape {info.shape} out of "
            f"{info.num_codes}), received {len(payload)}: {_DAMAGED}"
        )
    _check_checksum(content, where)
    if payload and payload[-1] & ((1 << (-bits_of(info) % 8)) - 1):
        raise InputError(f"expected zero bits after the last code of {where}, received ones: {_DAMAGED}")
    symbols = _bytes_to_symbols(payload, _width(info), math.prod(info.shape))
    codes = np.moveaxis(symbols.reshape(*info.grid, info.num_codebooks), -1, 0)
    _check_range(codes, info, where)
    return PackedCodes(info, np.ascontiguousarray(codes))


def write_packed(path: str | Path, codes: Int64[np.ndarray, " g *grid"], info: PackedInfo) -> int:
    """Write a packed file atomically, replacing an existing one.

    Returns:
        The number of bytes.

    Raises:
        InputError: as `pack`, or if the disk is full or not writable.
    """
    content = pack(codes, info)
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(content)
    return len(content)


def read_packed(path: str | Path) -> PackedCodes:
    """Read a packed file, in memory proportional to its size.

    Raises:
        InputError: as `unpack`, or if the file does not exist or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"expected a file of packed codes, {path} does not exist: make one with smalti encode"
        )
    try:
        with path.open("rb") as file:
            # Refuse a large file of another kind before reading all of it.
            _parse_prefix(file.read(_PREFIX.size), path)
            file.seek(0)
            content = file.read()
    except OSError as error:
        raise InputError(
            f"expected a file of packed codes, {path} cannot be read ({error.strerror}): "
            f"check its permissions and its disk"
        ) from error
    return unpack(content, path)


def _width(info: PackedInfo) -> int:
    """Return the bits of one code, ceil(log2 K)."""
    return (info.num_codes - 1).bit_length()


def _header(info: PackedInfo) -> bytes:
    try:
        return info.model_dump_json().encode()
    except PydanticSerializationError as error:
        raise InputError(
            f"expected a name and a label of valid Unicode, received {info.name!r} and "
            f"{info.label!r}: rename the item"
        ) from error


def _parse_prefix(prefix: bytes, where: str | Path) -> int:
    """Check the prefix of a file and return the length of its header."""
    if not prefix.startswith(_MAGIC) or prefix[len(_MAGIC) :] == b"":
        raise InputError(
            f"expected a file of packed codes ({ENDING}), {where} is not one that smalti wrote: "
            f"make one with smalti encode"
        )
    layout = prefix[len(_MAGIC)]
    if layout > FORMAT:
        raise InputError(
            f"{where} was written by a newer version of smalti (format {layout}; "
            f"this one reads up to {FORMAT}): run pip install -U smalti"
        )
    if layout < 1:
        raise InputError(f"expected a format from 1 to {FORMAT} in {where}, received {layout}: {_DAMAGED}")
    if len(prefix) < _PREFIX.size:
        raise InputError(
            f"expected at least {_PREFIX.size} bytes in {where}, received {len(prefix)}: {_DAMAGED}"
        )
    *_, header_bytes = _PREFIX.unpack(prefix)
    if header_bytes > _MAX_HEADER_BYTES:
        raise InputError(
            f"expected a header of at most {_MAX_HEADER_BYTES} bytes in {where}, "
            f"received a length of {header_bytes}: {_DAMAGED}"
        )
    return header_bytes


def _split(content: bytes, where: str | Path) -> tuple[memoryview, memoryview]:
    """The header and the payload, without a copy."""
    header_bytes = _parse_prefix(content[: _PREFIX.size], where)
    payload_start = _PREFIX.size + header_bytes
    payload_end = len(content) - _CHECKSUM.size
    if payload_end < payload_start:
        raise InputError(
            f"expected at least {payload_start + _CHECKSUM.size} bytes in {where} (its header has "
            f"{header_bytes}), received {len(content)}: {_DAMAGED}"
        )
    view = memoryview(content)
    return view[_PREFIX.size : payload_start], view[payload_start:payload_end]


def _parse_info(header: memoryview, layout: int, where: str | Path) -> PackedInfo:
    try:
        current = bytes(header) if layout > 1 else _from_version_1(header)
        return PackedInfo.model_validate_json(current, strict=True)
    except (ValidationError, ValueError) as error:
        raise InputError(
            f"expected a smalti header in {where}, received one that is damaged or has other fields: "
            f"{_DAMAGED}"
        ) from error


def _from_version_1(header: memoryview) -> bytes:
    """Convert a header with a `length` to one with a `size`.

    Raises:
        ValueError: if it is not JSON.
    """
    fields = parse_json(bytes(header))
    if isinstance(fields, dict) and "length" in fields:
        length = fields.pop("length")
        fields["size"] = None if length is None else [length]
    return json.dumps(fields).encode()


def _check_checksum(content: bytes, where: str | Path) -> None:
    (expected,) = _CHECKSUM.unpack(content[-_CHECKSUM.size :])
    received = zlib.crc32(memoryview(content)[: -_CHECKSUM.size])
    if received != expected:
        raise InputError(
            f"expected the checksum {expected:08x} of {where}, received {received:08x}: {_DAMAGED}"
        )


def _check_free(info: PackedInfo, what: str | Path) -> None:
    count = math.prod(info.shape)
    if _width(info) == 0 and count > _MAX_FREE_CODES:
        raise InputError(
            f"expected at most {_MAX_FREE_CODES} codes in {what} for a one-entry codebook, "
            f"received {count}: use a codebook of two or more entries"
        )


def _check_range(codes: Int64[np.ndarray, " g *grid"], info: PackedInfo, what: str | Path) -> None:
    if codes.min() < 0 or codes.max() >= info.num_codes:
        raise InputError(
            f"expected codes from 0 to {info.num_codes - 1}, received {codes.min()} to {codes.max()}: {what} "
            f"cannot come from this codebook; encode the item again"
        )


def _symbols_to_bytes(symbols: Int64[np.ndarray, " n"], width: int) -> bytes:
    """Concatenate the low `width` bits of each symbol, most significant first."""
    parts: list[bytes] = []
    for start in range(0, len(symbols), _CHUNK_CODES):
        words = symbols[start : start + _CHUNK_CODES].astype(">u4")
        bits = np.unpackbits(words.view(np.uint8)).reshape(-1, _WORD_BITS)
        parts.append(np.packbits(bits[:, _WORD_BITS - width :]).tobytes())
    return b"".join(parts)


def _bytes_to_symbols(payload: memoryview, width: int, count: int) -> Int64[np.ndarray, " n"]:
    """Unpack `count` symbols of `width` bits: the inverse of `_symbols_to_bytes`."""
    content = np.frombuffer(payload, np.uint8)
    symbols = np.empty(count, np.int64)
    for start in range(0, count, _CHUNK_CODES):
        size = min(_CHUNK_CODES, count - start)
        bits = np.zeros((size, _WORD_BITS), np.uint8)
        chunk = content[start * width // 8 :]
        bits[:, _WORD_BITS - width :] = np.unpackbits(chunk, count=size * width).reshape(size, width)
        symbols[start : start + size] = np.packbits(bits).view(">u4")
    return symbols
