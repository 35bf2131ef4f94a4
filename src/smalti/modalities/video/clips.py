"""Read clips from video files of all common types and from folders of frames, and write them.

This is the only module that uses PyAV (FFmpeg), which is imported when a clip is first read or written. Clips
that cannot be read raise `UnreadableItem` with the reason.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smalti.core.errors import InputError
from smalti.core.extras import needs_extra
from smalti.data.sources.base import Content, UnreadableItem
from smalti.data.sources.folder import FRAMES_ENDING
from smalti.modalities.image import pictures

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

EXTENSIONS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif", FRAMES_ENDING)
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif"
"""Formats that FFmpeg may open; others, such as playlists, could make it open further files."""
WRITTEN = (".mp4", ".gif")
"""Extensions of the files that can be written."""
ENCODERS = {
    "libx264": {"crf": "12"},
    "mpeg4": {"qmin": "1", "qmax": "3"},
}
"""Encoders for .mp4 in order of preference, with settings of high quality."""

SHORTEST = 2
"""Minimum number of frames of a clip."""
CUT = 0.9
"""A file with less than this share of the frames, or of the duration, stated in its header is truncated."""
GIF_RATE_HZ = 50
"""Highest frame rate of a GIF that players and FFmpeg accept."""
LONGEST_GAP_S = 600
"""Longest plausible duration of a frame: a damaged file may state years, filled with copies of the frame."""
UNKNOWN_RATE_HZ = 25.0
"""Frame rate of files without time stamps."""

Fitted = Callable[[Any], UInt8[np.ndarray, "c h w"]]
"""Converts pixels or an image file to a frame of the wanted size."""


def read_clip(content: Content, frame_rate_hz: float | None, fitted: Fitted) -> UInt8[np.ndarray, "c f h w"]:
    """Read the frames of one clip. Rotation metadata is applied, and sound is ignored.

    Only the resized frames are held in memory. Safe to call from several threads.

    Args:
        content: a file or its bytes; a folder of images, ordered by the numbers in their names; a tuple of
            the frames' files or bytes; or pixels, uint8 `(F, H, W)` or `(F, H, W, C)`.
        frame_rate_hz: rate at which frames are sampled: at each multiple of the period, the frame with the
            nearest time stamp is taken. None takes every frame once. Images and pixels have no time stamps
            and are always taken once.
        fitted: converts a frame to the wanted size.

    Raises:
        UnreadableItem: with the reason, if the clip cannot be read, is truncated, or has fewer than two
            frames.
    """
    if isinstance(content, np.ndarray):
        frames = [fitted(pixels) for pixels in _checked(content)]
    elif isinstance(content, tuple):
        frames = [_from_frame(number, frame, fitted) for number, frame in enumerate(content)]
    elif isinstance(content, Path) and content.is_dir():
        frames = [_from_picture(file, fitted) for file in _numbered(content)]
    else:
        frames = _from_file(content, frame_rate_hz, fitted)
    if len(frames) < SHORTEST:
        at = f" at {frame_rate_hz:g} frames per second" if frame_rate_hz else ""
        count = f"{len(frames)} frame{'' if len(frames) == 1 else 's'}"
        raise UnreadableItem(f"too short: it has {count}{at}, a clip has at least {SHORTEST}")
    return np.stack(frames, axis=1)


def write_clip(frames: UInt8[np.ndarray, "f h w c"], path: str | Path, frame_rate_hz: float) -> None:
    """Write a clip as MP4 (H.264, or MPEG-4 without an H.264 encoder) or GIF, by the extension of the path.

    Both formats reduce colour precision. MP4 requires even sides: the last row or column of an odd side is
    repeated. GIF merges equal successive frames into one of longer duration and plays at most 50 frames per
    second, so that faster clips play more slowly.

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


def _from_file(content: Path | bytes, frame_rate_hz: float | None, fitted: Fitted) -> list[np.ndarray]:
    with needs_extra("video"):
        import av
        from av.error import EOFError as FileEndError
        from av.error import InvalidDataError

    try:
        # FFmpeg gets an open file, since it would interpret some names as URLs.
        file = content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
    except OSError as error:
        raise UnreadableItem(error.strerror or str(error)) from error
    except ValueError as error:
        raise UnreadableItem("invalid file name") from error
    with file:
        if not file.read(1):
            raise UnreadableItem("the file is empty")
        file.seek(0)
        try:
            with av.open(file, "r", options={"format_whitelist": FORMATS}) as container:
                return _decoded(container, frame_rate_hz, fitted)
        except UnreadableItem:
            raise
        except (InvalidDataError, FileEndError) as error:
            raise UnreadableItem("not a video that FFmpeg can read, or damaged") from error
        # It raises errors of a dozen types for damaged files.
        except Exception as error:
            words = str(error).splitlines() or [type(error).__name__]
            raise UnreadableItem(f"FFmpeg cannot read it ({words[0]})") from error


def _decoded(container: InputContainer, frame_rate_hz: float | None, fitted: Fitted) -> list[np.ndarray]:
    # The cover image of some files is a video stream too, but `best` prefers moving pictures.
    stream = cast("VideoStream | None", container.streams.best("video"))
    if stream is None:
        raise UnreadableItem("it has no video stream, or is damaged")
    stream.thread_type = "AUTO"
    shown = _Shown(container, stream)
    rate_hz = None if frame_rate_hz is None else Fraction(frame_rate_hz).limit_denominator(1_000_000)
    wanted = (frame for _, _, frame in shown) if rate_hz is None else at_rate(shown, rate_hz)
    frames: list[np.ndarray] = []
    last: VideoFrame | None = None
    for frame in wanted:
        # A frame that is sampled several times is resized once.
        frames.append(frames[-1] if frame is last else fitted(_pixels(frame)))
        last = frame
    shown.check_whole()
    return frames


class _Shown:
    """Iterates over (start time, duration, frame) of a stream, in seconds, and counts the frames."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self._count, self._end = 0, Fraction(0)

    def __iter__(self) -> Iterator[tuple[Fraction, Fraction, VideoFrame]]:
        period = 1 / Fraction(self._stream.average_rate or UNKNOWN_RATE_HZ)
        first: Fraction | None = None
        for frame in self._container.decode(self._stream):
            begin = self._end
            if frame.pts is not None and frame.time_base is not None:
                at = frame.pts * frame.time_base
                first = at if first is None else first
                begin = at - first
            lasts = frame.duration * frame.time_base if frame.duration and frame.time_base else period
            self._count += 1
            self._end = begin + lasts
            yield begin, lasts, frame

    def check_whole(self) -> None:
        """Check that the stream did not end long before the frames or the duration stated in its header.

        Raises:
            UnreadableItem: if it is truncated.
        """
        stated = self._stream.frames
        # A file that was cut without re-encoding counts frames that are never shown; its duration is right.
        lasts = (self._stream.duration or 0) * (self._stream.time_base or 0)
        if self._count < CUT * stated and not (lasts and self._end >= CUT * lasts):
            raise UnreadableItem(f"damaged or truncated: {self._count} of its {stated} frames can be read")
        # With several streams, the duration of the container may be that of another one.
        if not stated and self._container.duration and len(self._container.streams) == 1:
            seconds = self._container.duration / 1_000_000
            if self._end < CUT * seconds:
                raise UnreadableItem(
                    f"damaged or truncated: {float(self._end):.1f} of its {seconds:.1f} seconds can be read"
                )


def at_rate(shown: Iterable[tuple[Fraction, Fraction, Any]], rate_hz: Fraction) -> Iterator[Any]:
    """Resample frames: yield the nearest frame at each multiple of 1 / `rate_hz`, to the end of the last one.

    Args:
        shown: start time, duration and value of each frame, in seconds and in order. Of two equally near
            frames, the first is taken.
        rate_hz: frame rate of the result.

    Raises:
        UnreadableItem: if a frame lasts longer than `LONGEST_GAP_S`.
    """
    taken = 0
    before: tuple[Fraction, Fraction, Any] | None = None
    for begin, lasts, frame in shown:
        if before is not None:
            _check_gap(begin - before[0])
            while taken / rate_hz <= (before[0] + begin) / 2:
                yield before[2]
                taken += 1
        before = begin, lasts, frame
    if before is not None:
        _check_gap(before[1])
        while taken / rate_hz < before[0] + before[1]:
            yield before[2]
            taken += 1


def _check_gap(seconds: Fraction) -> None:
    if seconds > LONGEST_GAP_S:
        raise UnreadableItem(f"damaged: by its time stamps, a frame lasts {float(seconds):.0f} seconds")


def _pixels(frame: VideoFrame) -> UInt8[np.ndarray, "h w c"]:
    """Convert a frame to upright RGB pixels, or RGBA if it may be transparent."""
    kind = frame.format
    has_alpha = kind.has_palette or any(component.is_alpha for component in kind.components)
    pixels = frame.to_ndarray(format="rgba" if has_alpha else "rgb24")
    # The rotation of the metadata and that of np.rot90 are both counterclockwise.
    return np.rot90(pixels, round(frame.rotation / 90))


def _checked(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim not in (3, 4):
        raise UnreadableItem(f"expected frames (F, H, W) or (F, H, W, C), received the shape {pixels.shape}")
    return pixels


def _from_picture(file: Path, fitted: Fitted) -> UInt8[np.ndarray, "c h w"]:
    try:
        return fitted(file)
    except UnreadableItem as error:
        raise UnreadableItem(f"its frame {file.name} cannot be read: {error}") from error


def _from_frame(number: int, frame: Path | bytes, fitted: Fitted) -> UInt8[np.ndarray, "c h w"]:
    try:
        return fitted(frame)
    except UnreadableItem as error:
        raise UnreadableItem(f"its frame {number} cannot be read: {error}") from error


def _numbered(folder: Path) -> list[Path]:
    """Return the images of a folder in numerical order: 2.png before 10.png."""
    try:
        files = [
            file
            for file in folder.iterdir()
            if file.suffix.lower() in pictures.EXTENSIONS and not file.name.startswith(".")
        ]
    except OSError as error:
        raise UnreadableItem(error.strerror or str(error)) from error
    # Equal numbers are ordered by name, 01.png before 1.png, so that every machine has the same order.
    return sorted(files, key=lambda file: ([*_parts(file.name)], file.name))


def _parts(name: str) -> Iterator[tuple[int, str]]:
    """Split a name into numbers and the text between them, for sorting."""
    for part in re.split(r"([0-9]+)", name):
        yield (int(part), "") if part.isdecimal() and part.isascii() else (-1, part)


def _write_mp4(frames: UInt8[np.ndarray, "f h w c"], path: str | Path, frame_rate_hz: float) -> None:
    with needs_extra("video"):
        import av
        import av.codec

    encoder = next(name for name in ENCODERS if name in av.codec.codecs_available)
    _, height, width, _ = frames.shape
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream(encoder, rate=Fraction(frame_rate_hz).limit_denominator(1000))
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = ENCODERS[encoder]
        for pixels in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_colour(pixels), format="rgb24")))
        container.mux(stream.encode())


def _write_gif(frames: UInt8[np.ndarray, "f h w c"], path: str | Path, frame_rate_hz: float) -> None:
    first, *others = (Image.fromarray(_colour(pixels)) for pixels in frames)
    # GIF durations are whole hundredths of a second; rounding the end times keeps the total duration right.
    ends = np.round(np.arange(len(frames) + 1) * 100 / min(frame_rate_hz, GIF_RATE_HZ)).astype(int)
    durations = [int(hundredths) * 10 for hundredths in np.diff(ends)]
    first.save(path, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _colour(pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
