"""Write clips to video files. PyAV (FFmpeg) is imported when a clip is first written."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smalti.core.errors import InputError
from smalti.core.extras import needs_extra

WRITTEN = (".mp4", ".gif")
"""Extensions of the files that can be written."""
ENCODERS = {
    "libx264": {"crf": "12"},
    "mpeg4": {"qmin": "1", "qmax": "3"},
}
"""Encoders for .mp4 in order of preference, with settings of high quality."""

GIF_RATE_HZ = 50
"""Highest frame rate of a GIF that players and FFmpeg accept."""


def write_clip(frames: Iterable[UInt8[np.ndarray, "h w c"]], path: str | Path, frame_rate_hz: float) -> None:
    """Write a clip as MP4 (H.264, or MPEG-4 without an H.264 encoder) or GIF, by the extension of the path.

    Both formats reduce colour precision. MP4 requires even sides: the last row or column of an odd side is
    repeated. GIF merges equal successive frames into one of longer duration and plays at most 50 frames per
    second, so that faster clips play more slowly.

    Args:
        frames: at least one; the frames of an MP4 are written as they come, those of a GIF together.
        path: path of the file.
        frame_rate_hz: frames per second.

    Raises:
        InputError: for another extension.
    """
    match Path(path).suffix.lower():
        case ".mp4":
            _write_mp4(frames, path, frame_rate_hz)
        case ".gif":
            _write_gif(frames, path, frame_rate_hz)
        case _:
            raise InputError(
                f"expected a path that ends in {' or '.join(WRITTEN)}, received {path}: rename it"
            )


def _write_mp4(frames: Iterable[UInt8[np.ndarray, "h w c"]], path: str | Path, frame_rate_hz: float) -> None:
    with needs_extra("video"):
        import av
        import av.codec

    encoder = next(name for name in ENCODERS if name in av.codec.codecs_available)
    remaining = iter(frames)
    first = next(remaining)
    height, width, _ = first.shape
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream(encoder, rate=Fraction(frame_rate_hz).limit_denominator(1000))
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        stream.options = ENCODERS[encoder]
        for pixels in chain([first], remaining):
            even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_colour(even), format="rgb24")))
        container.mux(stream.encode())


def _write_gif(frames: Iterable[UInt8[np.ndarray, "h w c"]], path: str | Path, frame_rate_hz: float) -> None:
    first, *others = (Image.fromarray(_colour(pixels)) for pixels in frames)
    # GIF durations are whole hundredths of a second; rounding the end times keeps the total duration right.
    ends = np.round(np.arange(len(others) + 2) * 100 / min(frame_rate_hz, GIF_RATE_HZ)).astype(int)
    durations = [int(hundredths) * 10 for hundredths in np.diff(ends)]
    first.save(path, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _colour(pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
