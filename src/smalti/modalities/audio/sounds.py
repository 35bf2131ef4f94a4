"""Sounds: files of every common kind, their bytes or their samples, as one channel at one sample rate.

All that soundfile (libsndfile) and soxr are needed for stands here; they are imported when a sound is first
read or written. What cannot be read is an `UnreadableItem` with the reason.
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
"""Endings of the files that can be written -> what libsndfile calls them."""

RATES_HZ = (1_000, 1_000_000)
"""Sample rates that are believed: a header may say 1 Hz, and resampling would then fill the memory."""

VALUES_AT_ONCE = 1 << 20
"""Read together, so that a header that claims terabytes costs nothing."""

UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile takes for the length of a FLAC file whose header does not state it."""

CLAIM = re.compile(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")
"""How libsndfile's log tells that a file holds fewer bytes than its header claims."""
STREAMED_BYTES = 0x7FFF0000
"""Programs that do not know a length yet claim this much or more."""
SLOPPY_BYTES = 64
"""By which headers are wrong and files still whole."""

ESTIMATED = {"MP3": 0.1}
"""Formats whose length libsndfile may only estimate, and the share by which it may be wrong."""

FULL_SCALE = 0.999
CLIPPED_SHARE = 1e-3
"""A sound that touches full scale in fewer of its samples was only normalised."""
SILENCE = 1e-4
"""Samples that differ by less are silence: 80 dB under full scale."""


def read_sound(content: Path | bytes | np.ndarray, sample_rate_hz: int) -> Float32[np.ndarray, " t"]:
    """One sound: the mean of its channels, resampled (soxr, HQ) and then clipped to [-1, 1].

    Samples of a sound of one channel at this rate keep their values exactly: 16-bit sample s is s / 32768.
    Safe to call from several threads.

    Args:
        content: a file, its bytes, or samples at `sample_rate_hz`: float in [-1, 1], int16 or uint8 (128 is
            zero), `(T,)` or `(T, C)`.
        sample_rate_hz: of the result.

    Raises:
        UnreadableItem: with the reason, when there is no such sound in it, or the file is cut short (which
            WAV, AIFF, AU, CAF and FLAC tell, and MP3 when more than a tenth is missing).
    """
    if isinstance(content, np.ndarray):
        return _finished(_from_samples(content), sample_rate_hz, sample_rate_hz)
    return _finished(*_from_file(_bytes(content)), sample_rate_hz)


def sound_notes(samples: Float32[np.ndarray, " t"]) -> list[str]:
    """What is odd about a sound in [-1, 1], in words: that it is silent throughout, or clipped."""
    if not samples.size or float(np.ptp(samples)) < SILENCE:
        return ["silent throughout"]
    share = float((np.abs(samples) >= FULL_SCALE).mean())
    return [f"clipped: {share:.1%} of the samples are at full scale"] if share > CLIPPED_SHARE else []


def write_sound(samples: Shaped[np.ndarray, " t"], path: str | Path, sample_rate_hz: int) -> None:
    """Write a sound of one channel with 16 bits, as WAV or FLAC by the ending of the path.

    Args:
        samples: float, what leaves [-1, 1] is clipped; or int16, written as they are.
        path: of the file.
        sample_rate_hz: of the samples.

    Raises:
        InputError: for another ending, or samples that are not finite numbers.
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
    """Finite samples at another rate, in the range."""
    with needs_extra("audio"):
        import soxr

    if not samples.size:
        raise UnreadableItem("the sound has no samples")
    if not np.isfinite(samples).all():
        raise UnreadableItem("it has samples that are not finite numbers (NaN or infinite): write it anew")
    if rate_hz != target_hz:
        samples = soxr.resample(samples, rate_hz, target_hz, quality="HQ")
        if not samples.size:
            raise UnreadableItem(f"too short: no sample is left of it at {target_hz} Hz")
    return np.clip(samples, -1, 1)


def _from_samples(samples: np.ndarray) -> Float32[np.ndarray, " t"]:
    # Channels first would pass for very many channels and next to no samples.
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
    """The mean of the channels of `(T,)` or `(T, C)`."""
    if samples.ndim == 2:
        samples = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float64)
    # Out of float32's range is infinite, which is told as such.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(samples, dtype=np.float32)


def _bytes(content: Path | bytes) -> bytes:
    try:
        data = content.read_bytes() if isinstance(content, Path) else content
    except OSError as error:
        raise UnreadableItem(error.strerror or str(error)) from error
    except ValueError as error:
        raise UnreadableItem("no file can have this name") from error
    if not data:
        raise UnreadableItem("the file is empty")
    return data


def _from_file(data: bytes) -> tuple[Float32[np.ndarray, " t"], int]:
    """The mean of the channels, and the sample rate."""
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
            raise UnreadableItem("damaged or cut short: it cannot be read to its end") from error
        if len(samples) < file.frames * (1 - ESTIMATED.get(file.format, 0)):
            raise UnreadableItem(
                f"damaged or cut short: {len(samples)} of its {file.frames} samples can be read"
            )
        return samples, file.samplerate


class _Memory(io.BytesIO):
    """Bytes in which a damaged header may lead anywhere: libsndfile's callbacks print what they raise."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _check_header(file: SoundFile) -> None:
    """Refuse what a header says that cannot be."""
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
        raise UnreadableItem(f"cut short: it holds {held} of its {claimed} bytes of samples")


def _blocks(file: SoundFile) -> Iterator[Float32[np.ndarray, " t"]]:
    """The mean of the channels, piece by piece."""
    frames = max(1, VALUES_AT_ONCE // file.channels)
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        yield _mono(block)


def _to_16_bits(samples: np.ndarray) -> Int16[np.ndarray, " t"]:
    """The nearest of -32768..32767, which stand for [-1, 1): the inverse of how they are read."""
    if not np.isfinite(samples).all():
        raise InputError("expected samples that are finite numbers, received NaN or infinite ones")
    return np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
