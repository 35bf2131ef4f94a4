"""Read clips from video files of all common types and from folders of frames.

PyAV (FFmpeg) is imported when a clip is first read. Clips that cannot be read raise `UnreadableItem` with the
reason.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smalti.core.extras import needs_extra
from smalti.data.sources.base import Content, UnreadableItem
from smalti.data.sources.folder import FRAMES_ENDING
from smalti.modalities.containers import check_extent, check_single
from smalti.modalities.image import formats, pictures
from smalti.modalities.image.depth import may_be_deep

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

EXTENSIONS = (".mp4", ".m4v", ".mov", ".3gp", ".webm", ".mkv", ".avi", ".wmv", ".gif", FRAMES_ENDING)
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,gif"
"""Formats that FFmpeg may open; others, such as playlists, could make it open further files."""
BLOCK_BYTES = 1 << 22
"""Size of a block of frames."""
SHORTEST = 2
"""Minimum number of frames of a clip."""
MISSING_SHARE, MISSING_FRAMES = 0.02, 2
"""Tolerated share and number of the frames that a header states: headers round."""
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read the transparency of WebM files; FFmpeg's own decoders ignore it."""
MOST_PIXELS = 1 << 26
"""Largest frame that is read, twice that of 8K: a damaged header may state one that exhausts memory."""
WIDEST_PIXEL = 8
"""Largest plausible ratio of the sides of a pixel."""
HDR_TRANSFER = 16
"""Code of the PQ transfer function (SMPTE ST 2084), in which a picture on another display looks dull."""
LONGEST_GAP_S = 600
"""Longest plausible duration of a frame: a damaged file may state years, filled with copies of the frame."""
UNKNOWN_RATE_HZ = 25.0
"""Frame rate of files without time stamps."""

Fitted = Callable[[Any], UInt8[np.ndarray, "c h w"]]
"""Converts pixels or an image file to a frame of the wanted size."""


def read_clip(content: Content, frame_rate_hz: float | None, fitted: Fitted) -> UInt8[np.ndarray, "c f h w"]:
    """Read the frames of one clip. Rotation, mirroring and the shape of pixels are applied as the file
    states them, and sound is ignored.

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
    return np.stack([*_of_one_size(_frames(content, frame_rate_hz, fitted), frame_rate_hz)], axis=1)


def clip_blocks(
    file: Path, frame_rate_hz: float | None, fitted: Fitted
) -> Iterator[UInt8[np.ndarray, "c f h w"]]:
    """Read a video file block by block, in bounded memory; the blocks, joined, are what `read_clip` returns.

    Raises:
        UnreadableItem: as `read_clip`, while the blocks are read.
    """
    kept: list[np.ndarray] = []
    for frame in _of_one_size(_from_file(file, frame_rate_hz, fitted), frame_rate_hz):
        kept.append(frame)
        if len(kept) * frame.nbytes >= BLOCK_BYTES:
            yield np.stack(kept, axis=1)
            kept = []
    if kept:
        yield np.stack(kept, axis=1)


def _frames(content: Content, frame_rate_hz: float | None, fitted: Fitted) -> Iterator[np.ndarray]:
    if isinstance(content, np.ndarray):
        yield from (fitted(pixels) for pixels in _checked(content))
    elif isinstance(content, tuple):
        yield from (_from_frame(number, frame, fitted) for number, frame in enumerate(content))
    elif isinstance(content, Path) and content.is_dir():
        yield from (_from_picture(file, fitted) for file in _numbered(content))
    else:
        yield from _from_file(content, frame_rate_hz, fitted)


def _of_one_size(frames: Iterable[np.ndarray], frame_rate_hz: float | None) -> Iterator[np.ndarray]:
    """Yield frames; refuse too few, or frames of different sizes."""
    count, shape = 0, None
    for frame in frames:
        count, shape = count + 1, shape or frame.shape
        if frame.shape != shape:
            raise UnreadableItem("its frames differ in size")
        yield frame
    if count < SHORTEST:
        at = f" at {frame_rate_hz:g} frames per second" if frame_rate_hz else ""
        counted = f"{count} frame{'' if count == 1 else 's'}"
        raise UnreadableItem(f"too short: it has {counted}{at}, a clip has at least {SHORTEST}")


def deep_frames(contents: Iterable[Content]) -> Iterator[Path | bytes | np.ndarray]:
    """Yield the frames of clips that consist of pictures, as files, bytes or pixels.

    Left out are clips whose first frame has at most 8 bits per channel, and video files, which state their
    depth.

    Args:
        contents: clips, as `read_clip` takes them.
    """
    for content in contents:
        if isinstance(content, np.ndarray):
            yield content
            continue
        # What cannot be read is reported where it is decoded.
        with suppress(UnreadableItem, OSError, ValueError):
            frames = content if isinstance(content, tuple) else ()
            if isinstance(content, Path) and content.is_dir():
                frames = _numbered(content)
            if frames and may_be_deep(frames[0]):
                yield from frames


def _from_file(content: Path | bytes, frame_rate_hz: float | None, fitted: Fitted) -> Iterator[np.ndarray]:
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
            check_extent(file)
            check_single(file)
            with av.open(file, "r", options={"format_whitelist": FORMATS}) as container:
                yield from _decoded(container, frame_rate_hz, fitted)
        except UnreadableItem:
            raise
        except (InvalidDataError, FileEndError) as error:
            raise UnreadableItem("not a video that FFmpeg can read, or damaged") from error
        # It raises errors of a dozen types for damaged files.
        except Exception as error:
            words = str(error).splitlines() or [type(error).__name__]
            raise UnreadableItem(f"FFmpeg cannot read it ({words[0]})") from error


def _decoded(container: InputContainer, frame_rate_hz: float | None, fitted: Fitted) -> Iterator[np.ndarray]:
    # The cover image of some files is a video stream too, but `best` prefers moving pictures.
    stream = cast("VideoStream | None", container.streams.best("video"))
    if stream is None:
        raise UnreadableItem("it has no video stream, or is damaged")
    stream.thread_type = "AUTO"
    if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
        raise UnreadableItem(f"its frames have more than {MOST_PIXELS} pixels: damaged, or too large to read")
    width = Fraction(stream.sample_aspect_ratio or 1)
    if not 1 / WIDEST_PIXEL <= width <= WIDEST_PIXEL:
        raise UnreadableItem(f"damaged: its pixels are stated to be {float(width):g} times as wide as high")
    shown = _Shown(container, stream)
    rate_hz = None if frame_rate_hz is None else Fraction(frame_rate_hz).limit_denominator(1_000_000)
    wanted = (frame for _, _, frame in shown) if rate_hz is None else at_rate(shown, rate_hz)
    last: tuple[VideoFrame, np.ndarray] | None = None
    for frame in wanted:
        # A frame that is sampled several times is resized once.
        if last is None or frame is not last[0]:
            last = frame, fitted(_pixels(frame, width))
        yield last[1]
    shown.check_whole()


class _Shown:
    """Iterates over (start time, duration, frame) of a stream, in seconds, and counts the frames."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self._count, self._end = 0, Fraction(0)

    def __iter__(self) -> Iterator[tuple[Fraction, Fraction, VideoFrame]]:
        period = 1 / Fraction(self._stream.average_rate or UNKNOWN_RATE_HZ)
        first: Fraction | None = None
        for frame in self._frames():
            begin = self._end
            if frame.pts is not None and frame.time_base is not None:
                at = frame.pts * frame.time_base
                first = at if first is None else first
                begin = at - first
            lasts = frame.duration * frame.time_base if frame.duration and frame.time_base else period
            self._count += 1
            self._end = begin + lasts
            yield begin, lasts, frame

    def _frames(self) -> Iterator[VideoFrame]:
        """Decode the stream, with its transparency."""
        name = ALPHA_DECODERS.get(self._stream.codec_context.codec.canonical_name)
        if name is None or self._stream.metadata.get("alpha_mode") != "1":
            yield from self._container.decode(self._stream)
            return
        import av.codec

        if name not in av.codec.codecs_available:
            raise UnreadableItem(f"it is transparent, which needs a build of FFmpeg with {name}: convert it")
        decoder = cast("VideoCodecContext", av.CodecContext.create(name, "r"))
        for packet in self._container.demux(self._stream):
            # The packet without bytes at the end makes the decoder return what it holds.
            yield from decoder.decode(packet if packet.size else None)

    def check_whole(self) -> None:
        """Check that the stream did not end before the frames or the duration stated in its header.

        Raises:
            UnreadableItem: if it is truncated.
        """
        stated, seconds = self._stream.frames, self._stated_seconds()
        period = 1 / Fraction(self._stream.average_rate or UNKNOWN_RATE_HZ)
        is_timely = self._end >= seconds * (1 - MISSING_SHARE) - MISSING_FRAMES * period
        # A file that was cut without re-encoding counts frames that are never shown; its duration is right.
        if self._count < stated * (1 - MISSING_SHARE) - MISSING_FRAMES and not (seconds and is_timely):
            raise UnreadableItem(f"damaged or truncated: {self._count} of its {stated} frames can be read")
        if not stated and not is_timely:
            raise UnreadableItem(
                f"damaged or truncated: {float(self._end):.1f} of its {seconds:.1f} seconds can be read"
            )

    def _stated_seconds(self) -> float:
        """Return the duration that the file states for the stream, in seconds; 0 if it does not."""
        stream = self._stream
        time_base = stream.time_base or 0
        if stream.duration:
            return float(stream.duration * time_base)
        # Matroska states when each stream ends.
        parts = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
        if parts:
            end = int(parts[1]) * 3600 + int(parts[2]) * 60 + float(parts[3])
            return max(0.0, end - float((stream.start_time or 0) * time_base))
        # With several streams, the duration of the container may be that of another one.
        is_alone = len(self._container.streams) == 1
        return (self._container.duration or 0) / 1_000_000 if is_alone else 0.0


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


def _pixels(frame: VideoFrame, pixel_width: Fraction) -> UInt8[np.ndarray, "h w c"]:
    """Convert a frame to upright RGB pixels that are square, or RGBA if it may be transparent.

    Args:
        frame: a decoded frame.
        pixel_width: width of a pixel by its height. The shorter side is enlarged, so that no detail is lost.
    """
    if frame.is_corrupt:
        raise UnreadableItem("damaged: a frame cannot be decoded")
    if frame.color_trc == HDR_TRANSFER:
        raise UnreadableItem("its colours are HDR (PQ): convert it to SDR")
    kind = frame.format
    has_alpha = kind.has_palette or any(component.is_alpha for component in kind.components)
    pixels = frame.to_ndarray(format="rgba" if has_alpha else "rgb24")
    if pixel_width != 1:
        height, width = pixels.shape[:2]
        wide, high = max(pixel_width, Fraction(1)), max(1 / pixel_width, Fraction(1))
        image = pictures.to_picture(pixels)
        pixels = np.asarray(
            image.resize((round(width * wide), round(height * high)), Image.Resampling.LANCZOS)
        )
    return _upright(pixels, frame)


def _upright(pixels: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Rotate and mirror pixels by the display matrix of the frame, to the nearest quarter turn."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None or len(bytes(matrix)) < 36:
        return pixels
    # The pixel (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(matrix), np.int32)[:5])
    to_x, to_y = (a, d) if abs(a) >= abs(b) else (c, b)
    if abs(a) < abs(b):
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if to_y < 0 else 1, :: -1 if to_x < 0 else 1]


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
            if file.suffix.lower() in formats.EXTENSIONS and not file.name.startswith(".")
        ]
    except OSError as error:
        raise UnreadableItem(error.strerror or str(error)) from error
    # Equal numbers are ordered by name, 01.png before 1.png, so that every machine has the same order.
    return sorted(files, key=lambda file: ([*_parts(file.name)], file.name))


def _parts(name: str) -> Iterator[tuple[int, str]]:
    """Split a name into numbers and the text between them, for sorting."""
    for part in re.split(r"([0-9]+)", name):
        yield (int(part), "") if part.isdecimal() and part.isascii() else (-1, part)
