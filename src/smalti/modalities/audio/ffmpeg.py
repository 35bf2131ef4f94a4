"""Decode sounds with FFmpeg. This is the only module of the sounds that uses PyAV."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, cast

import numpy as np
from jaxtyping import Float32

from smalti.core.extras import needs_extra
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio.channels import check_rate, mono

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio.stream import AudioStream

MISSING_SHARE, MISSING_S = 0.02, 0.1
"""Tolerated share and seconds of the stated duration: codecs pad, and containers round."""
SCALES = {"u1": 128.0, "i2": 2.0**15, "i4": 2.0**31, "i8": 2.0**63}
"""Full scale of integer samples."""


def read(data: bytes, demuxer: str) -> tuple[Float32[np.ndarray, " t"], int]:
    """Decode the best audio stream of a file; return the mean of its channels and its sample rate in Hz.

    Args:
        data: bytes of the file.
        demuxer: FFmpeg's name of the container. FFmpeg does not guess it, since it would find a kind for
            damaged files too, and playlists, which open further files.

    Raises:
        UnreadableItem: if the file is damaged, truncated, or has no sound.
    """
    with needs_extra("audio"):
        import av

    blocks: list[np.ndarray] = []
    rate_hz = 0
    try:
        with av.open(io.BytesIO(data), "r", format=demuxer) as container:
            stream = cast("AudioStream | None", container.streams.best("audio"))
            if stream is None:
                raise UnreadableItem("it has no sound")
            for frame in container.decode(stream):
                if rate_hz not in (0, frame.sample_rate):
                    raise UnreadableItem(
                        f"its sample rate changes from {rate_hz} to {frame.sample_rate} Hz: convert it"
                    )
                rate_hz = frame.sample_rate
                check_rate(rate_hz)
                blocks.append(_samples(frame))
            samples = np.concatenate([np.empty(0, np.float32), *blocks])
            rate_hz = rate_hz or stream.rate
            return _whole(samples, rate_hz, stream, container.duration), rate_hz
    except UnreadableItem:
        raise
    # It raises errors of a dozen types for damaged files.
    except Exception as error:
        raise UnreadableItem("damaged, truncated, or not a sound that FFmpeg can read") from error


def _samples(frame: AudioFrame) -> Float32[np.ndarray, " t"]:
    channels = frame.layout.nb_channels
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, channels)
    if values.dtype.kind == "f":
        return mono(values)
    centred = values.astype(np.float64) - (128 if values.dtype == np.uint8 else 0)
    return mono(centred / SCALES[values.dtype.str[1:]])


def _whole(
    samples: np.ndarray, rate_hz: int, stream: AudioStream, container_us: int | None
) -> Float32[np.ndarray, " t"]:
    """Check the length against the stated duration; cut the codec's padding off the end."""
    if stream.duration and stream.time_base:
        stated = round(stream.duration * stream.time_base * rate_hz)
    elif len(stream.container.streams) == 1:
        stated = round((container_us or 0) * rate_hz / 1_000_000)
    else:
        stated = 0
    if len(samples) < stated * (1 - MISSING_SHARE) - MISSING_S * rate_hz:
        raise UnreadableItem(f"damaged or truncated: {len(samples)} of its {stated} samples can be read")
    # MP4 states its exact length, in samples; the last frame of the codec is longer.
    is_exact = stream.time_base is not None and stream.time_base * rate_hz == 1
    return samples[:stated] if is_exact and stream.container.format.name.startswith("mov") else samples
