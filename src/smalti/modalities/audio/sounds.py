"""Read sounds of all common file types as one channel at one sample rate, and write them.

This is the only module that uses soundfile (libsndfile) and soxr, which are imported when a sound is first
read or written. Sounds that cannot be read raise `UnreadableItem` with the reason.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int16, Shaped

from smalti.core.errors import InputError
from smalti.core.extras import needs_extra
from smalti.data.sources.base import UnreadableItem

if TYPE_CHECKING:
    from soundfile import SoundFile

EXTENSIONS = (
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64",
    ".rf64", ".sph", ".voc",
)  # fmt: skip

WRITTEN = {".wav": "WAV", ".flac": "FLAC"}
"""Extensions of the files that can be written, and the format names of libsndfile."""

RATES_HZ = (1_000, 1_000_000)
"""Accepted sample rates: a damaged header may state 1 Hz, and resampling would then exhaust memory."""

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

ESTIMATED = {"MP3": 0.1}
"""Formats whose length libsndfile may only estimate, with the tolerated share of error."""

FULL_SCALE = 0.999
CLIPPED_SHARE = 1e-3
"""Share of samples at full scale above which a sound counts as clipped; normalised sounds have fewer."""
SILENCE = 1e-4
"""Peak-to-peak amplitude below which a sound is silent: 80 dB below full scale."""


def read_sound(content: Path | bytes | np.ndarray, sample_rate_hz: int) -> Float32[np.ndarray, " t"]:
    """Read one sound: average its channels, resample (soxr, HQ), and clip to [-1, 1].

    The samples of a mono sound at this rate keep their exact values: 16-bit sample s becomes s / 32768. Safe
    to call from several threads.

    Args:
        content: a file, its bytes, or samples at `sample_rate_hz`: float in [-1, 1], int16 or uint8 (128 is
            zero), `(T,)` or `(T, C)`.
        sample_rate_hz: sample rate of the result.

    Raises:
        UnreadableItem: with the reason, if the sound cannot be read or is truncated. Truncation is detected
            in WAV, AIFF, AU, CAF and FLAC files, and in MP3 files if more than a tenth is missing.
    """
    if isinstance(content, np.ndarray):
        return _finished(_from_samples(content), sample_rate_hz, sample_rate_hz)
    return _finished(*_from_file(_bytes(content)), sample_rate_hz)


def sound_notes(samples: Float32[np.ndarray, " t"]) -> list[str]:
    """Return warnings about a sound in [-1, 1]: that it is silent, or clipped."""
    if not samples.size or float(np.ptp(samples)) < SILENCE:
        return ["silent throughout"]
    share = float((np.abs(samples) >= FULL_SCALE).mean())
    return [f"clipped: {share:.1%} of the samples are at full scale"] if share > CLIPPED_SHARE else []


def write_sound(samples: Shaped[np.ndarray, " t"], path: str | Path, sample_rate_hz: int) -> None:
    """Write a mono sound with 16 bits per sample, as WAV or FLAC by the extension of the path.

    Args:
        samples: floats, clipped to [-1, 1], or int16, written unchanged.
        path: path of the file.
        sample_rate_hz: sample rate of the samples.

    Raises:
        InputError: for another extension, or samples that are not finite numbers.
    """
    with needs_extra("audio"):
        import soundfile

    kind = WRITTEN.get(Path(path).suffix.lower())
    if kind is None:
        raise InputError(f"expected a path that ends in {' or '.join(WRITTEN)}, received {path}: rename it")
    pcm = samples if samples.dtype == np.int16 else _to_16_bits(samples)
    with open(path, "wb") as file:
        soundfile.write(file, pcm, sample_rate_hz, format=kind, subtype="PCM_16")


def _finished(samples: np.ndarray, rate_hz: int, target_hz: int) -> Float32[np.ndarray, " t"]:
    """Check that samples are finite, resample them, and clip them to [-1, 1]."""
    with needs_extra("audio"):
        import soxr

    if not samples.size:
        raise UnreadableItem("the sound has no samples")
    if not np.isfinite(samples).all():
        raise UnreadableItem("it has samples that are NaN or infinite: write it again")
    if rate_hz != target_hz:
        samples = soxr.resample(samples, rate_hz, target_hz, quality="HQ")
        if not samples.size:
            raise UnreadableItem(f"too short: it has no samples at {target_hz} Hz")
    return np.clip(samples, -1, 1)


def _from_samples(samples: np.ndarray) -> Float32[np.ndarray, " t"]:
    # More channels than samples means that the channels came first.
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > max(1, samples.shape[0])):
        raise UnreadableItem(f"expected samples (T,) or (T, C), received the shape {samples.shape}")
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype == np.int16:
        samples = samples.astype(np.float32) / 32768
    elif samples.dtype.kind != "f":
        raise UnreadableItem(f"expected samples of type float, int16 or uint8, received {samples.dtype}")
    return _mono(samples)


def _mono(samples: np.ndarray) -> Float32[np.ndarray, " t"]:
    """Average the channels of `(T,)` or `(T, C)` samples."""
    if samples.ndim == 2:
        samples = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float64)
    # Values out of float32's range become infinite, which is reported later.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(samples, dtype=np.float32)


def _bytes(content: Path | bytes) -> bytes:
    try:
        data = content.read_bytes() if isinstance(content, Path) else content
    except OSError as error:
        raise UnreadableItem(error.strerror or str(error)) from error
    except ValueError as error:
        raise UnreadableItem("invalid file name") from error
    if not data:
        raise UnreadableItem("the file is empty")
    return data


def _from_file(data: bytes) -> tuple[Float32[np.ndarray, " t"], int]:
    """Read a file; return the mean of its channels and its sample rate in Hz."""
    with needs_extra("audio"):
        import soundfile

    try:
        file = soundfile.SoundFile(_Memory(data))
    except soundfile.SoundFileError as error:
        raise UnreadableItem("not a sound that libsndfile can read, or damaged at its start") from error
    with file:
        _check_header(file)
        try:
            samples = np.concatenate([np.empty(0, np.float32), *_blocks(file)])
        except soundfile.SoundFileError as error:
            raise UnreadableItem("damaged or truncated: it cannot be read to its end") from error
        if len(samples) < file.frames * (1 - ESTIMATED.get(file.format, 0)):
            raise UnreadableItem(
                f"damaged or truncated: {len(samples)} of its {file.frames} samples can be read"
            )
        return samples, file.samplerate


class _Memory(io.BytesIO):
    """Stream that ignores invalid seeks of damaged headers: libsndfile would print the exceptions."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _check_header(file: SoundFile) -> None:
    """Refuse a header with implausible values."""
    low, high = RATES_HZ
    if not low <= file.samplerate <= high:
        raise UnreadableItem(f"its sample rate is {file.samplerate} Hz, not within {low} to {high}")
    if file.frames == UNKNOWN_FRAMES:
        raise UnreadableItem("its header does not state its length: convert it")
    claim = CLAIM.search(file.extra_info)
    if claim is None:
        return
    claimed, held = int(claim[1]), int(claim[2])
    if held + max(SLOPPY_BYTES, claimed // 100) < claimed < STREAMED_BYTES:
        raise UnreadableItem(f"truncated: it holds {held} of its {claimed} bytes of samples")


def _blocks(file: SoundFile) -> Iterator[Float32[np.ndarray, " t"]]:
    """Yield the mean of the channels block by block."""
    frames = max(1, VALUES_AT_ONCE // file.channels)
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        yield _mono(block)


def _to_16_bits(samples: np.ndarray) -> Int16[np.ndarray, " t"]:
    """Round [-1, 1) to the nearest of -32768..32767: the inverse of reading them."""
    if not np.isfinite(samples).all():
        raise InputError("expected finite samples, received NaN or infinite ones")
    return np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
