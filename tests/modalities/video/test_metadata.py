"""Clips mean what their metadata says: transparency, the shape of pixels, orientation; and they are whole."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.codec
import numpy as np
import pytest

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.video.clips import read_clip
from smalti.modalities.video.modality import VideoConfig
from tests import videos

MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "quarter turn clockwise": ((0, 1, -1, 0), lambda frames: np.rot90(frames, -1, (1, 2))),
    "half turn": ((-1, 0, 0, -1), lambda frames: np.rot90(frames, 2, (1, 2))),
    "left and right": ((-1, 0, 0, 1), lambda frames: frames[:, :, ::-1]),
    "up and down": ((1, 0, 0, -1), lambda frames: frames[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda frames: frames.swapaxes(1, 2)),
}


@contextmanager
def kept_scheduling() -> Iterator[None]:
    """Restore the scheduling of this thread, which SVT-AV1 makes a real-time one if root runs it."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def encoded(
    container: str,
    codec: str,
    pixels: str,
    frames: np.ndarray,
    *,
    sound: str | None = None,
    context: dict[str, Any] | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """A clip of ten frames per second, with noise beside it if a codec of sound is named."""
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    with kept_scheduling(), av.open(buffer, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for name, value in (context or {}).items():
            setattr(stream.codec_context, name, value)
        beside: Any = file.add_stream(sound, rate=48000, layout="mono") if sound else None
        if beside is not None:
            beside.bit_rate = 96000
        for index, frame in enumerate(frames):
            kind = "rgba" if frame.shape[2] == 4 else "rgb24"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=kind)))
            if beside is not None:
                samples = rng.integers(-3000, 3000, (1, 4800)).astype(np.int16)
                noise = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                noise.sample_rate, noise.pts = 48000, index * 4800
                file.mux(beside.encode(noise))
        for one in (stream, beside):
            if one is not None:
                file.mux(one.encode(None))
    return buffer.getvalue()


def read(content: bytes, size: tuple[int, int] = (16, 24), **settings: Any) -> np.ndarray:
    config = VideoConfig(size=size, **settings)
    return read_clip(content, None, config.read)


def refusal(content: bytes) -> str:
    with pytest.raises(UnreadableItem) as caught:
        read(content)
    return str(caught.value)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
@pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
def test_transparent_webm_shows_the_background(codec: str, background: Any, level: int) -> None:
    if codec not in av.codec.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    hidden = np.full((6, 32, 48, 3), (200, 30, 90), np.uint8)
    alpha = np.zeros((6, 32, 48, 1), np.uint8)
    alpha[:, :16] = 255
    frames = np.concatenate([hidden, alpha], 3)
    content = encoded("webm", codec, "yuva420p", frames, options={"auto-alt-ref": "0"})
    clip = read(content, (32, 48), background=background)
    assert clip.shape == (3, 6, 32, 48)
    assert np.abs(clip[:, :, 2, 24].astype(int) - np.array([[200], [30], [90]])).max() < 20
    assert np.abs(clip[:, :, 29, 24].astype(int) - level).max() < 6


@pytest.mark.parametrize(("container", "codec"), [("mp4", "mpeg4"), ("avi", "mjpeg"), ("mov", "mpeg4")])
@pytest.mark.parametrize("ratio", [Fraction(2), Fraction(1, 2)])
def test_pixels_that_are_not_square(container: str, codec: str, ratio: Fraction) -> None:
    height, width = (32, 24) if ratio > 1 else (16, 48)
    squeezed = np.zeros((4, height, width, 3), np.uint8)
    squeezed[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 255
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    context = {"sample_aspect_ratio": ratio, "bit_rate": 2_000_000}
    clip = read(encoded(container, codec, pixels, squeezed, context=context), (32, 48))
    shown = clip[0, 0] > 128
    assert shown.any(1).sum() == pytest.approx(16, abs=1)
    assert shown.any(0).sum() == pytest.approx(24, abs=1)


@pytest.mark.parametrize("name", MATRICES)
def test_every_orientation(name: str) -> None:
    matrix, upright = MATRICES[name]
    frames = videos.moving(3, 16, 16)
    content = bytearray(encoded("mov", "png", "rgb24", frames))
    a, b, c, d = (65536 * value for value in matrix)
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    np.testing.assert_array_equal(read(bytes(content), (16, 16)), upright(frames).transpose(3, 0, 1, 2))


def test_hdr_is_refused() -> None:
    content = encoded("mp4", "libx264", "yuv420p", videos.moving(3), context={"color_trc": 16})
    assert "HDR" in refusal(content)


KINDS = [
    ("mp4", "libx264", "yuv420p", "aac"),
    ("mp4", "mpeg4", "yuv420p", None),
    ("mov", "mjpeg", "yuvj420p", "pcm_s16le"),
    ("mov", "prores_ks", "yuv422p10le", None),
    ("mov", "qtrle", "rgb24", None),
    ("3gp", "mpeg4", "yuv420p", None),
    ("webm", "libvpx", "yuv420p", "libopus"),
    ("webm", "libvpx-vp9", "yuv420p", None),
    ("webm", "libsvtav1", "yuv420p", None),
    ("matroska", "ffv1", "yuv444p", "flac"),
    ("matroska", "ffv1", "gbrp10le", None),
    ("matroska", "ffv1", "gray16le", None),
    ("avi", "huffyuv", "rgb24", None),
    ("avi", "mjpeg", "yuvj420p", "pcm_s16le"),
    ("avi", "rawvideo", "bgr24", None),
    ("avi", "utvideo", "gbrp", None),
    ("asf", "wmv2", "yuv420p", "wmav2"),
]


@pytest.mark.parametrize(("container", "codec", "pixels", "sound"), KINDS)
def test_every_kind_is_read_whole_or_refused(
    container: str, codec: str, pixels: str, sound: str | None
) -> None:
    """With sound beside it too, of which a file cut short still holds as much as of the pictures."""
    if {codec, sound or codec} - av.codec.codecs_available:
        pytest.skip("this build of FFmpeg lacks an encoder")
    side = 64 if codec == "libsvtav1" else 32
    frames = videos.moving(40, side, side + side // 2)
    content = encoded(container, codec, pixels, frames, sound=sound, context={"bit_rate": 1_000_000})
    clip = read(content, frames.shape[1:3])
    assert clip.shape == (3, 40, *frames.shape[1:3])
    expected = frames.transpose(3, 0, 1, 2).astype(int)
    if pixels.startswith("gray"):
        expected = np.broadcast_to(
            (expected * [[[[0.299]]], [[[0.587]]], [[[0.114]]]]).sum(0), expected.shape
        )
    assert np.abs(clip - expected).mean() < (
        2 if codec in ("ffv1", "huffyuv", "utvideo", "rawvideo", "qtrle") else 12
    )
    assert not hasattr(os, "SCHED_FIFO") or os.sched_getscheduler(0) != os.SCHED_FIFO
    for share in (0.3, 0.5, 0.9):
        assert "truncated" in refusal(content[: int(len(content) * share)]) or share < 0.5
    assert "joined" in refusal(content + content)


def test_gif(tmp_path: Path) -> None:
    content = videos.save_gif(tmp_path / "clip", videos.moving(12, 16, 24)).read_bytes()
    assert "joined" in refusal(content + content)
