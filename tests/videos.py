"""Shared by tests of clips: made clips, in files of every kind."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.codec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


@dataclass(frozen=True)
class Kind:
    """Format of a file of frames."""

    ending: str
    codec: str
    pixels: str


LOSSLESS = Kind(".mkv", "ffv1", "bgr0")
KINDS = tuple(
    kind
    for kind in (
        Kind(".mp4", "libx264", "yuv420p"),
        Kind(".webm", "libvpx-vp9", "yuv420p"),
        LOSSLESS,
        Kind(".mov", "mpeg4", "yuv420p"),
        Kind(".avi", "mjpeg", "yuvj420p"),
    )
    if kind.codec in av.codec.codecs_available
)
"""Those that this build of FFmpeg can write."""


def moving(num: int = 12, height: int = 32, width: int = 48, shift: int = 2) -> np.ndarray:
    """A bright square that moves to the right on a ground that grows lighter, `(F, H, W, 3)`."""
    frames = np.zeros((num, height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:] = 8 * index % 240
        left = (shift * index) % (width - width // 3)
        frame[height // 4 : height // 2, left : left + width // 3] = (240, 200, 40)
    return frames


def grey(*levels: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """Frames of one level each, `(F, H, W, 3)`."""
    return np.stack([np.full((*size, 3), level, np.uint8) for level in levels])


def save(
    path: Path,
    frames: np.ndarray,
    kind: Kind = KINDS[0],
    rate_hz: int = 10,
    times_ms: list[int] | None = None,
) -> Path:
    """A clip in a file of a kind; `times_ms` are those at which frames are shown, where they are uneven."""
    path = path.with_suffix(kind.ending)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(kind.codec, rate=rate_hz)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = kind.pixels
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            kind_of_pixels = "rgba" if pixels.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind_of_pixels)
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_pixels(frames: Iterable[np.ndarray], path: str | Path, _: float) -> None:
    """Stands for `write_clip` where pixels are compared; an encoder may differ between two runs."""
    Path(path).write_bytes(np.stack([*frames]).tobytes())


def save_gif(path: Path, frames: np.ndarray, durations_ms: list[int] | int = 100) -> Path:
    """A clip as an animated GIF."""
    path = path.with_suffix(".gif")
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=others, duration=durations_ms, loop=0)
    return path


def save_folder(path: Path, frames: np.ndarray) -> Path:
    """A clip as a folder of numbered pictures; without leading zeros, so that their names do not sort."""
    path = path.with_suffix(".frames")
    path.mkdir(parents=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{index}.png")
    return path


STEPS = {"left": -2, "right": 2, "wait": 0}
"""Displacement by each action of `walk`, pixels."""


def walk(actions: Sequence[str], size: int = 16) -> np.ndarray:
    """A bright bar that moves around the edge as its actions say, `(F, size, size, 3)`.

    A frame shows what came of the action before it.
    """
    frames, left = [], size // 2
    for action in actions:
        frame = np.full((size, size, 3), 30, np.uint8)
        frame[:, np.arange(left, left + size // 4) % size] = (240, 200, 40)
        frames.append(frame)
        left += STEPS[action]
    return np.stack(frames)


def save_episodes(path: Path, episodes: Sequence[Sequence[str]], size: int = 16) -> Path:
    """Walks under these actions as a table of frames: PNG in Parquet, actions by number and name."""
    names = sorted(STEPS)
    rows = []
    for number, actions in enumerate(episodes):
        for index, (frame, action) in enumerate(zip(walk(actions, size), actions, strict=True)):
            content = io.BytesIO()
            Image.fromarray(frame).save(content, "PNG")
            image = {"bytes": content.getvalue(), "path": f"{number}_{index}.png"}
            rows.append({"image": image, "action": names.index(action), "episode": number, "frame": index})
    features = {"action": {"_type": "ClassLabel", "names": names}}
    table = pa.Table.from_pylist(rows).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def random_walks(num: int, length: int, seed: int = 0) -> list[list[str]]:
    """Actions of walks, each drawn evenly."""
    rng = np.random.default_rng(seed)
    return [rng.choice(sorted(STEPS), length).tolist() for _ in range(num)]
