"""Stated sizes of container files: a file that holds fewer bytes than its container states is truncated."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from smalti.data.sources.base import UnreadableItem

SLOPPY_BYTES = 64
"""Tolerance, in bytes, of the stated size of a complete file."""
STREAMED_BYTES = 0x7FFF0000
"""Programs that stream a RIFF file of unknown length state at least this size."""

SEGMENT = b"\x18\x53\x80\x67"
"""EBML identifier of the segment of a Matroska or WebM file, which holds all of its content."""
ASF = b"\x30\x26\xb2\x75"
ASF_PROPERTIES = b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65"
"""Identifier of the object of a WMA or WMV file that states the file's size."""
HEAD_BYTES = 1 << 16
"""Bytes at the beginning that are searched for headers."""


def check_extent(file: io.BufferedIOBase) -> None:
    """Check that a file holds as many bytes as its container states; other kinds of file pass.

    Raises:
        UnreadableItem: if it is truncated.
    """
    held, stated = file.seek(0, io.SEEK_END), stated_bytes(file)
    file.seek(0)
    if stated is not None and held < stated - SLOPPY_BYTES:
        raise UnreadableItem(f"truncated: it holds {held} of its {stated} bytes")


def check_single(file: io.BufferedIOBase) -> None:
    """Check that no second file was appended to an MP4, Matroska, WebM, AVI, WMV or GIF file.

    Raises:
        UnreadableItem: if the file holds several, of which a decoder would read only the first.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if head[4:8] == b"ftyp":
        is_joined = sum(name == b"ftyp" for name, _ in _boxes(file)) > 1
    elif head[:6] in (b"GIF87a", b"GIF89a"):
        file.seek(0)
        is_joined = re.search(rb";GIF8[79]a", file.read()) is not None
    else:
        stated = stated_bytes(file) if head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", ASF) else None
        file.seek(stated or 0)
        following = file.read(12) if stated else b""
        # The parts of a long AVI file are of the type AVIX.
        is_joined = following[:4] == head[:4] and (head[:4] != b"RIFF" or following[8:] == head[8:12])
    file.seek(0)
    if is_joined:
        raise UnreadableItem("it holds several files joined end to end: split it")


def stated_bytes(file: io.BufferedIOBase) -> int | None:
    """Return the size that a file states: None if its kind does not say, or it does not know.

    Kinds: MP4 and QuickTime, Matroska and WebM, AVI, WMA and WMV, CAF, W64, RF64, VOC, NIST SPHERE.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if head[4:8] == b"ftyp":
        return _of_boxes(file)
    if head[:4] == b"\x1aE\xdf\xa3":
        return _of_segment(head)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        stated = int.from_bytes(head[4:8], "little") + 8
        return stated if 8 < stated < STREAMED_BYTES else None
    if head[:4] == b"caff":
        return _of_chunks(file)
    if head[:16] == b"NIST_1A\n   1024\n":
        return _of_sphere(head[:1024])
    if head[:20] == b"Creative Voice File\x1a":
        return _of_voice(file)
    if head[:4] == b"riff":
        return int.from_bytes(head[16:24], "little")
    if head[:4] == b"RF64" and head[12:16] == b"ds64":
        return int.from_bytes(head[20:28], "little") + 8
    if head[:4] == ASF:
        place = head.find(ASF_PROPERTIES)
        return int.from_bytes(head[place + 40 : place + 48], "little") or None if place >= 0 else None
    return None


def _of_boxes(file: io.BufferedIOBase) -> int | None:
    """Return where the last box of an MP4 or QuickTime file ends; None if it is the rest of the file."""
    ends = [end for _, end in _boxes(file)]
    return ends[-1] if ends else None


def _boxes(file: io.BufferedIOBase) -> Iterator[tuple[bytes, int | None]]:
    """Yield the name and the end of each box at the top level; the end is None if it is that of the file."""
    end, at = file.seek(0, io.SEEK_END), 0
    while at + 8 <= end:
        file.seek(at)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        # Zero means up to the end of the file; other small sizes are bytes after the last box.
        if size < 8:
            yield header[4:8], None
            return
        at += size
        yield header[4:8], at


def _of_chunks(file: io.BufferedIOBase) -> int | None:
    """Return where the last chunk of a CAF file ends; None if it extends to the end of the file."""
    end, at = file.seek(0, io.SEEK_END), 8
    while at + 12 <= end:
        file.seek(at + 4)
        size = int.from_bytes(file.read(8), "big", signed=True)
        if size < 0:
            return None
        at += 12 + size
    return at


def _of_voice(file: io.BufferedIOBase) -> int:
    """Return where the last block of a VOC file ends: a block of type 0 if the file is complete."""
    end, at = file.seek(0, io.SEEK_END), 26
    while at + 4 <= end:
        file.seek(at)
        header = file.read(4)
        if header[0] == 0:
            return at + 1
        at += 4 + int.from_bytes(header[1:], "little")
    return at


def _of_sphere(head: bytes) -> int | None:
    """Return where the samples of an uncompressed NIST SPHERE file end."""
    if re.search(rb"sample_coding -s\d+ [^\n]*embedded", head):
        return None
    factors = {name: int(value) for name, value in re.findall(rb"(\w+) -i (\d{1,18})\n", head)}
    count, channels = factors.get(b"sample_count"), factors.get(b"channel_count", 1)
    # Files of 8-bit companded samples may omit the size of a sample.
    return None if count is None else 1024 + count * channels * factors.get(b"sample_n_bytes", 1)


def _of_segment(head: bytes) -> int | None:
    """Return where the segment of a Matroska file ends; None if its size is unknown, as in a live stream."""
    place = head.find(SEGMENT)
    if place < 0 or len(head) < place + 12:
        return None
    first = head[place + 4]
    width = 9 - first.bit_length()
    if width > 8:
        return None
    size = int.from_bytes(head[place + 4 : place + 4 + width], "big") & (1 << 7 * width) - 1
    return None if size == (1 << 7 * width) - 1 else place + 4 + width + size
