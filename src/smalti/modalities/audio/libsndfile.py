"""Decode sounds with libsndfile. This is the only module that reads with soundfile."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from smalti.core.extras import needs_extra
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio.channels import check_rate, mono

if TYPE_CHECKING:
    from soundfile import SoundFile

VALUES_AT_ONCE = 1 << 20
"""Values read at a time, so that a header that states terabytes does not allocate them."""

UNKNOWN_FRAMES = 2**63 - 1
"""Length that libsndfile reports for a FLAC file whose header does not state it."""

CLAIM = re.compile(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")
"""Line of libsndfile's log about a file that holds fewer bytes than its header states."""
STREAMED_BYTES = 0x7FFF0000
"""Programs that stream a file of unknown length state at least this length."""
SLOPPY_BYTES = 64
"""Tolerance, in bytes, of the stated length of a complete file."""


def read(data: bytes) -> tuple[Float32[np.ndarray, " t"], int] | None:
    """Decode a file; return the mean of its channels and its sample rate in Hz.

    Returns None if libsndfile cannot open the file, or if a FLAC file does not state its length.

    Raises:
        UnreadableItem: if the file is damaged or truncated.
    """
    file = _opened(_Memory(data))
    if file is None:
        return None
    with file:
        return np.concatenate([np.empty(0, np.float32), *_all_blocks(file)]), file.samplerate


def open_blocks(path: Path) -> tuple[Iterator[Float32[np.ndarray, " t"]], int] | None:
    """Open a file that is decoded block by block; return the blocks and the sample rate in Hz.

    Returns None as `read` does. The iterator closes the file, and raises `UnreadableItem` for a file that is
    found to be damaged or truncated.

    Raises:
        UnreadableItem: as `read`, if it is known before the samples are decoded.
    """
    file = _opened(str(path))
    if file is None:
        return None

    def blocks() -> Iterator[Float32[np.ndarray, " t"]]:
        with file:
            yield from _all_blocks(file)

    return blocks(), file.samplerate


def _opened(content: str | io.BytesIO) -> SoundFile | None:
    """Open a file, and check what its header states."""
    with needs_extra("audio"):
        import soundfile

    try:
        file = soundfile.SoundFile(content)
    except soundfile.SoundFileError:
        return None
    try:
        if file.frames == UNKNOWN_FRAMES:
            file.close()
            return None
        check_rate(file.samplerate)
        _check_length(file)
    except UnreadableItem:
        file.close()
        raise
    return file


class _Memory(io.BytesIO):
    """Stream that ignores invalid seeks of damaged headers: libsndfile would print the exceptions."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _check_length(file: SoundFile) -> None:
    """Refuse a file that holds fewer bytes than its header states."""
    claim = CLAIM.search(file.extra_info)
    if claim is None:
        return
    claimed, held = int(claim[1]), int(claim[2])
    if held + max(SLOPPY_BYTES, claimed // 100) < claimed < STREAMED_BYTES:
        raise UnreadableItem(f"truncated: it holds {held} of its {claimed} bytes of samples")


def _all_blocks(file: SoundFile) -> Iterator[Float32[np.ndarray, " t"]]:
    """Yield the mean of the channels block by block, as many samples as the header states."""
    import soundfile

    num_frames, at_once = 0, max(1, VALUES_AT_ONCE // file.channels)
    try:
        while len(block := file.read(at_once, dtype="float32", always_2d=True)):
            num_frames += len(block)
            yield mono(block)
    except soundfile.SoundFileError as error:
        raise UnreadableItem("damaged or truncated: it cannot be read to its end") from error
    if num_frames < file.frames:
        raise UnreadableItem(f"damaged or truncated: {num_frames} of its {file.frames} samples can be read")
