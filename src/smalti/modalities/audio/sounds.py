"""Read sounds of all common file types as one channel at one sample rate, and write them.

The libraries (libsndfile, FFmpeg, soxr) are imported when a sound is first read or written. Sounds that
cannot be read raise `UnreadableItem` with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int16, Shaped

from smalti.core.errors import InputError
from smalti.core.extras import needs_extra
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio.channels import mono
from smalti.modalities.audio.kinds import decode, open_blocks

EXTENSIONS = (
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64",
    ".rf64", ".sph", ".voc", ".m4a", ".m4b", ".aac", ".wma", ".mka", ".weba", ".mp2", ".mpga", ".tta", ".wv",
)  # fmt: skip

WRITTEN = {".wav": "WAV", ".flac": "FLAC"}
"""Extensions of the files that can be written, and the format names of libsndfile."""

LONG_BYTES = 1 << 22
"""Size of a file from which it is read block by block, if its format allows that."""
NOT_FINITE = "it has samples that are NaN or infinite: write it again"

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
        UnreadableItem: with the reason, if the sound cannot be read, or the file holds less than its content
            promises. Sounds that were joined end to end in one file are all read.
    """
    if isinstance(content, np.ndarray):
        return _finished(_from_samples(content), sample_rate_hz, sample_rate_hz)
    return _finished(*decode(_bytes(content)), sample_rate_hz)


def sound_blocks(path: Path, sample_rate_hz: int) -> Iterator[Float32[np.ndarray, " t"]] | None:
    """Read a long sound block by block, in bounded memory; the blocks, joined, are those of `read_sound`.

    Args:
        path: a file.
        sample_rate_hz: sample rate of the result.

    Returns:
        The blocks, which may be empty, or None for a file that is short, or that is only read at once.

    Raises:
        UnreadableItem: with the reason, if the sound cannot be read; the iterator raises it, too.
    """
    try:
        opened = open_blocks(path) if path.stat().st_size >= LONG_BYTES else None
    except OSError as error:
        raise UnreadableItem(error.strerror or str(error)) from error
    if opened is None:
        return None
    blocks, rate_hz = opened
    finite = map(_finite, blocks)
    if rate_hz != sample_rate_hz:
        finite = _resampled_blocks(finite, rate_hz, sample_rate_hz)
    return (np.clip(block, -1, 1) for block in finite)


def _resampled_blocks(
    blocks: Iterator[Float32[np.ndarray, " t"]], rate_hz: int, target_hz: int
) -> Iterator[Float32[np.ndarray, " t"]]:
    with needs_extra("audio"):
        import soxr

    resampler = soxr.ResampleStream(rate_hz, target_hz, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _finite(samples: Float32[np.ndarray, " t"]) -> Float32[np.ndarray, " t"]:
    """Refuse samples that are not finite."""
    if not np.isfinite(samples).all():
        raise UnreadableItem(NOT_FINITE)
    return samples


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
    pcm = samples if samples.dtype == np.int16 else _to_16_bits(samples)
    write_sound_blocks([pcm], path, sample_rate_hz)


def write_sound_blocks(
    blocks: Iterable[Shaped[np.ndarray, " t"]], path: str | Path, sample_rate_hz: int
) -> None:
    """Write a mono sound that is given block by block; see `write_sound`.

    Raises:
        InputError: as `write_sound`.
    """
    with needs_extra("audio"):
        import soundfile

    kind = WRITTEN.get(Path(path).suffix.lower())
    if kind is None:
        raise InputError(f"expected a path that ends in {' or '.join(WRITTEN)}, received {path}: rename it")
    with (
        open(path, "wb") as opened,
        soundfile.SoundFile(opened, "w", sample_rate_hz, 1, subtype="PCM_16", format=kind) as file,
    ):
        for samples in blocks:
            file.write(samples if samples.dtype == np.int16 else _to_16_bits(samples))


def _finished(samples: np.ndarray, rate_hz: int, target_hz: int) -> Float32[np.ndarray, " t"]:
    """Check that samples are finite, resample them, and clip them to [-1, 1]."""
    if not samples.size:
        raise UnreadableItem("the sound has no samples")
    if not np.isfinite(samples).all():
        raise UnreadableItem(NOT_FINITE)
    return resampled(samples, rate_hz, target_hz)


def resampled(samples: np.ndarray, rate_hz: int, target_hz: int) -> Float32[np.ndarray, " t"]:
    """Resample (soxr, HQ) and clip to [-1, 1].

    Raises:
        UnreadableItem: if no sample is left.
    """
    if rate_hz != target_hz:
        with needs_extra("audio"):
            import soxr
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
    return mono(samples)


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


def _to_16_bits(samples: np.ndarray) -> Int16[np.ndarray, " t"]:
    """Round [-1, 1) to the nearest of -32768..32767: the inverse of reading them."""
    if not np.isfinite(samples).all():
        raise InputError("expected finite samples, received NaN or infinite ones")
    return np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
