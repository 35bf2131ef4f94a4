"""The frames of an MPEG audio file (MP3, MP2), found without decoding.

MP3 files have no reliable header: many state a length that is an estimate, or that of the first of several
joined files. The frames themselves state their size, so that walking them tells how much sound a file holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smalti.data.sources.base import UnreadableItem

RATES_HZ = (44100, 48000, 32000)
"""Sample rates of MPEG-1; MPEG-2 has half of them, MPEG-2.5 a quarter (ISO 11172-3, 13818-3)."""
KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates by (version, layer), for the indices 1 to 14."""

LONGEST_JUNK = 2048
"""Bytes after the last frame that may be something else, such as an unknown kind of tag."""
LONGEST_PADDING = 4 * 1152 + 4096
"""Samples that a decoder may drop at the ends: the encoder's delay and padding have 12 bits each."""


@dataclass
class Piece:
    """One MPEG file: its frames, without tags, and what its Xing or Info header states.

    Attributes:
        frames: start and end of each frame in the data, the header frame included.
        stated: number of frames that the header states, or None without one.
        samples: samples of all frames, without those of the header frame.
    """

    frames: list[tuple[int, int]] = field(default_factory=list)
    stated: int | None = None
    samples: int = 0


@dataclass(frozen=True)
class _Header:
    version: int
    layer: int
    rate_hz: int
    size: int
    samples: int
    side_size: int

    @property
    def stream(self) -> tuple[int, int, int]:
        """The values that all frames of a sound share."""
        return self.version, self.layer, self.rate_hz


def id3_size(data: bytes, at: int = 0) -> int:
    """Return the size of the ID3v2 tag at an offset, or 0 if there is none."""
    if data[at : at + 3] != b"ID3" or len(data) < at + 10 or max(data[at + 6 : at + 10]) > 127:
        return 0
    size = 0
    for byte in data[at + 6 : at + 10]:
        size = size << 7 | byte
    return size + (20 if data[at + 5] & 0x10 else 10)


def pieces(data: bytes) -> list[Piece]:
    """Find the frames of a file; files joined end to end are separated where each has a header frame.

    Raises:
        UnreadableItem: if frames are missing or damaged, or the last one is incomplete.
    """
    found = [Piece()]
    at, stream = 0, None
    while at < len(data):
        header = _header(data, at)
        if header is None or (stream is not None and header.stream != stream):
            at = _next(data, at, stream, found)
            continue
        if at + header.size > len(data):
            raise UnreadableItem("truncated: its last frame is incomplete")
        # The first frame counts only if a second one, a tag or the end of the file follows.
        if stream is None and not _continues(data, at + header.size, header):
            at = _next(data, at + 1, stream, found)
            continue
        stream = header.stream
        stated = _stated(data, at, header)
        if stated is not None and found[-1].frames:
            found.append(Piece())
        piece = found[-1]
        piece.frames.append((at, at + header.size))
        if stated is None:
            piece.samples += header.samples
        else:
            piece.stated = stated
        at += header.size
    for piece in found:
        held = len(piece.frames) - 1
        if piece.stated is not None and held < piece.stated:
            raise UnreadableItem(f"truncated: it holds {held} of its {piece.stated} frames")
    return found


def _header(data: bytes, at: int) -> _Header | None:
    """Parse the frame header at an offset; None if there is none."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version_id, layer_id = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    kbits_id, rate_id, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version_id == 1 or layer_id == 0 or rate_id == 3 or not 0 < kbits_id < 15:
        return None
    layer = 4 - layer_id
    version = 1 if version_id == 3 else 2
    rate_hz = RATES_HZ[rate_id] // {3: 1, 2: 2, 0: 4}[version_id]
    bits = 1000 * KBITS[version, layer][kbits_id - 1]
    if layer == 1:
        size, samples = (12 * bits // rate_hz + padding) * 4, 384
    else:
        samples = 576 if layer == 3 and version == 2 else 1152
        size = samples // 8 * bits // rate_hz + padding
    mono = data[at + 3] >> 6 == 3
    side_size = (17 if mono else 32) if version == 1 else (9 if mono else 17)
    return _Header(version, layer, rate_hz, size, samples, side_size)


def _stated(data: bytes, at: int, header: _Header) -> int | None:
    """Return the number of frames that a Xing, Info or VBRI header states; None for a frame of sound."""
    for place, name in ((4 + header.side_size, b"Xing"), (4 + header.side_size, b"Info"), (36, b"VBRI")):
        begin = at + place
        if header.layer != 3 or data[begin : begin + 4] != name:
            continue
        if name == b"VBRI":
            return int.from_bytes(data[begin + 14 : begin + 18], "big")
        has_count = data[begin + 7] & 1
        return int.from_bytes(data[begin + 8 : begin + 12], "big") if has_count else 0
    return None


def _continues(data: bytes, at: int, header: _Header) -> bool:
    """Return True if a frame ends where the file ends, or where a tag or frame of the same stream begins."""
    if at >= len(data) or _tag_size(data, at):
        return True
    following = _header(data, at)
    return following is not None and following.stream == header.stream


def _tag_size(data: bytes, at: int) -> int:
    """Return the size of the tag, or of the zeros, at an offset; 0 if there is none."""
    if data[at] == 0:
        end = at
        while end < len(data) and data[end : end + 4096].strip(b"\0") == b"":
            end += 4096
        rest = data[end : end + 4096]
        return min(len(data), end + len(rest) - len(rest.lstrip(b"\0"))) - at
    if data[at : at + 3] == b"TAG":
        return min(128, len(data) - at)
    if data[at : at + 8] == b"APETAGEX":
        size, flags = (int.from_bytes(data[at + place : at + place + 4], "little") for place in (12, 20))
        # The size includes the footer; a header is flagged in bit 29.
        return 32 + (size if flags & 1 << 29 else 0)
    if data[at : at + 11] == b"LYRICSBEGIN":
        end = data.find(b"LYRICS200", at)
        return end + 9 - at if end > 0 else 0
    return id3_size(data, at)


def _next(data: bytes, at: int, stream: tuple[int, int, int] | None, found: list[Piece]) -> int:
    """Return where to look for the next frame: after a tag, or at the next frame of the same stream.

    Raises:
        UnreadableItem: if bytes among the frames are neither frames nor tags.
    """
    size = _tag_size(data, at)
    if size:
        return at + size
    begin, place = at, at
    while (place := data.find(b"\xff", place + 1)) >= 0:
        header = _header(data, place)
        if (
            header is not None
            and stream in (None, header.stream)
            and (following := _header(data, place + header.size)) is not None
            and following.stream == header.stream
        ):
            break
    if not found[-1].frames:
        return place if place >= 0 else len(data)
    junk = (place if place >= 0 else len(data)) - begin
    if place < 0 and junk <= LONGEST_JUNK:
        return len(data)
    raise UnreadableItem(f"damaged: {junk} bytes after its frame {len(found[-1].frames)} are not sound")
