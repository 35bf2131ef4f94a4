"""Recognise the kind of a sound file by its content, and decode all of it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio import ffmpeg, libsndfile, mpeg, ogg
from smalti.modalities.containers import check_extent

HEAD_BYTES = 1 << 13
"""Bytes at the beginning that a signature, or the format of a WAV file, does not exceed."""
BLOCK_BYTES = 1 << 20

Decoded = tuple[Float32[np.ndarray, " t"], int]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        signature: bytes that every file of the kind begins with. Where they stand again, a second file was
            appended to the first, and both are read.
        demuxer: FFmpeg's name of the container, or None if only libsndfile reads it.
        has_libsndfile: whether libsndfile, which gives exact lengths, is tried first.
    """

    signature: re.Pattern[bytes]
    demuxer: str | None
    has_libsndfile: bool = True

    def read(self, data: bytes) -> list[Decoded]:
        """Decode a file, or several that were joined end to end."""
        starts = [found.start() for found in self.signature.finditer(data)]
        ends = [*starts[1:], len(data)]
        return [self._one(data[begin:end]) for begin, end in zip(starts, ends, strict=True)]

    def count(self, file: io.BufferedIOBase) -> int:
        """Count the signatures in a file, block by block."""
        file.seek(0)
        found, before = 0, b""
        while block := file.read(BLOCK_BYTES):
            # A signature across a border is found with the block after it, one in the overlap not again.
            within = (each.end() for each in self.signature.finditer(before + block))
            found += sum(end > len(before) for end in within)
            before = block[-HEAD_BYTES:]
        return found

    def _one(self, data: bytes) -> Decoded:
        check_extent(io.BytesIO(data))
        decoded = libsndfile.read(data) if self.has_libsndfile else None
        if decoded is not None:
            return decoded
        if self.demuxer is None:
            raise UnreadableItem(DAMAGED)
        return ffmpeg.read(data, self.demuxer)


DAMAGED = "not a sound of a kind that is read, or damaged at its start"


def _kind(signature: bytes, demuxer: str | None, has_libsndfile: bool = True) -> Kind:
    return Kind(re.compile(signature, re.DOTALL), demuxer, has_libsndfile)


KINDS = (
    _kind(rb"RIF[FX].{4}WAVE", "wav"),
    _kind(rb"RF64.{4}WAVE", "wav"),
    _kind(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00", "w64"),
    _kind(rb"FORM.{4}AIF[FC]", "aiff"),
    _kind(rb"caff\x00\x01\x00\x00", "caf"),
    _kind(rb"\.snd\x00\x00.{6}\x00\x00\x00[\x01-\x1b]", "au"),
    _kind(rb"fLaC[\x00\x80]\x00\x00\x22", "flac"),
    _kind(rb"NIST_1A\n   1024\n", None),
    _kind(rb"Creative Voice File\x1a", "voc", False),
    _kind(rb"\x00\x00\x00[\x08-\xff]ftyp", "mov", False),
    _kind(rb"\x1aE\xdf\xa3.{1,60}?(?:matroska|webm)", "matroska", False),
    _kind(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", "asf", False),
    _kind(rb"TTA1[\x01\x02]\x00[\x01-\x08]\x00", "tta", False),
    _kind(rb"\Awvpk", "wv", False),
)
"""Kinds whose files begin with a signature."""

MPEG_IN_WAV = re.compile(rb"RIFF.{4}WAVE.{0,4096}?fmt .{4}[\x50\x55]\x00", re.DOTALL)


def decode(data: bytes) -> Decoded:
    """Decode a sound file of any kind; return the mean of its channels and its sample rate in Hz.

    Raises:
        UnreadableItem: with the reason, if the file cannot be read, or holds less sound than it states.
    """
    begin = 0
    while size := mpeg.id3_size(data, begin):
        begin += size
    data = data[begin:]
    read = _reader(data)
    decoded = read(data)
    rates = sorted({rate_hz for _, rate_hz in decoded})
    if len(rates) > 1:
        raise UnreadableItem(
            f"it holds {len(decoded)} sounds of different sample rates ({rates[0]} and {rates[-1]} Hz): "
            "split it"
        )
    return np.concatenate([samples for samples, _ in decoded]), rates[0]


def open_blocks(path: Path) -> tuple[Iterator[Float32[np.ndarray, " t"]], int] | None:
    """Open a file that is decoded block by block; return the blocks and the sample rate in Hz.

    Returns None for a file that is only decoded at once: one of a kind that libsndfile does not read, or
    several that were joined end to end.

    Raises:
        UnreadableItem: as `decode`; the iterator raises it, too.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        kind = next((kind for kind in KINDS if kind.has_libsndfile and kind.signature.match(head)), None)
        if kind is None or MPEG_IN_WAV.match(head) or kind.count(file) > 1:
            return None
        check_extent(file)
    return libsndfile.open_blocks(path)


def _reader(data: bytes) -> Callable[[bytes], list[Decoded]]:
    if MPEG_IN_WAV.match(data):
        raise UnreadableItem("MP3 inside a WAV file, whose length cannot be checked: convert it")
    for kind in KINDS:
        if kind.signature.match(data):
            return kind.read
    if data.startswith(b"OggS"):
        return _from_ogg
    if _is_adts(data):
        return lambda data: [ffmpeg.read(data, "aac")]
    if data[:1] == b"\xff" or data[:1] == b"\x00":
        return _from_mpeg
    raise UnreadableItem(DAMAGED)


def _is_adts(data: bytes) -> bool:
    """Return True if the data begins with AAC frames: sync word, layer 0, and the size of the first frame."""
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xF6 != 0xF0:
        return False
    size = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
    return size >= 7 and (size >= len(data) or data[size] == 0xFF)


def _from_ogg(data: bytes) -> list[Decoded]:
    return [libsndfile.read(piece) or ffmpeg.read(piece, "ogg") for piece in ogg.pieces(data)]


def _from_mpeg(data: bytes) -> list[Decoded]:
    decoded = []
    for piece in mpeg.pieces(data):
        if not piece.samples:
            raise UnreadableItem(DAMAGED)
        samples, rate_hz = ffmpeg.read(b"".join(data[begin:end] for begin, end in piece.frames), "mp3")
        if len(samples) < piece.samples - mpeg.LONGEST_PADDING:
            raise UnreadableItem(f"damaged: {len(samples)} of its {piece.samples} samples can be read")
        decoded.append((samples, rate_hz))
    return decoded
