"""The video modality: clips of any length, uint8 `(C, F, H, W)`, with frames read like images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from PIL import Image
from pydantic import Field, PositiveInt
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.modality import MODALITIES, Modality
from smalti.core.signals import Levels, SignalSpec
from smalti.core.streaming import ElementwiseStream
from smalti.data.sources.base import Content, UnreadableItem
from smalti.modalities.image.fit import Fit, Whole
from smalti.modalities.image.pixels import (
    LEVELS,
    PictureConfig,
    as_levels,
    as_tensor,
    channels_first,
    in_range,
    of_one_size,
    picture_grid,
    to_model,
    to_stored,
)
from smalti.modalities.video.clips import (
    EXTENSIONS,
    UNKNOWN_RATE_HZ,
    clip_blocks,
    deep_frames,
    read_clip,
)
from smalti.modalities.video.files import write_clip

LONG_BYTES = 1 << 22
"""Size of a video file from which it is read block by block."""
SHOWN = 8
"""Maximum number of clips in a preview; more would be too small to see."""
STRIP = 8
"""Maximum number of frames per clip in a preview."""


@MODALITIES.register
class VideoConfig(PictureConfig):
    """Settings of `VideoModality`. Frames are read like images.

    Attributes:
        frames: frames per training crop.
        frame_rate_hz: rate at which frames are sampled, by their time stamps; None takes every frame once.
    """

    kind: Literal["video"] = "video"
    frames: PositiveInt = 16
    frame_rate_hz: float | None = Field(default=None, ge=0.01, le=1000)

    @classmethod
    def tiny(cls) -> VideoConfig:
        """Return the smallest useful settings, for tests."""
        return cls(size=(8, 8), frames=4)

    def build(self) -> VideoModality:
        """Build the modality."""
        return VideoModality(self)

    def surveyed(self, contents: Iterable[Any]) -> tuple[VideoConfig, list[str]]:
        """Choose the range of 16-bit frames that are pictures, if it is "auto"."""
        return super().surveyed(deep_frames(contents))


@final
class VideoModality(Modality):
    """Clips `(B, C, F, H, W)` in 256 levels, which a model sees in [-1, 1]."""

    extensions = EXTENSIONS
    ending = ".mp4"
    plural_name = "clips"
    is_ragged = True
    readers = 1

    def __init__(self, config: VideoConfig, fit: Fit | None = None) -> None:
        """
        Args:
            config: settings.
            fit: how frames are scaled and cropped; None for that of the settings.

        Raises:
            InputError: if the size is not set.
        """
        self.config, self.fit = config, fit or config.fit
        self.height, self.width = config.sides

    @property
    def portion(self) -> str:
        """Says which pixels of frames are read."""
        return self.fit.portion("frames")

    def native(self) -> VideoModality:
        """Return the modality of clips of any height and width."""
        return VideoModality(self.config, Whole())

    @property
    def stored_shape(self) -> tuple[int | None, ...]:
        """Shape of a stored item; None for the sides in which items differ."""
        return (self.config.channels, None, *self.fit.sides)

    @property
    def spec(self) -> SignalSpec:
        """Channels, the size of a training crop, and levels."""
        size = (self.config.frames, self.height, self.width)
        return SignalSpec(
            channels=self.config.channels,
            size=size,
            domain=Levels(LEVELS),
            axes=("time", "height", "width"),
        )

    def protocol(self) -> dict[str, Any]:
        """Return every setting that affects measurements on these clips, as plain JSON values."""
        return {**self.config.reading(self.fit), "frame_rate_hz": self.config.frame_rate_hz}

    def decode(self, content: Content) -> UInt8[np.ndarray, "c f h w"]:
        """Read one clip with `read_clip`, at the modality's size and frame rate.

        Raises:
            UnreadableItem: with the reason, if the clip cannot be read.
        """
        return read_clip(content, self.config.frame_rate_hz, partial(self.config.read, fit=self.fit))

    def to_model(self, levels: UInt8[Tensor, "b c f h w"]) -> Float32[Tensor, "b c f h w"]:
        """Convert levels 0..255 to [-1, 1]: x / 127.5 - 1."""
        return to_model(levels)

    def to_stored(self, signal: Float[Tensor, "b c f h w"]) -> UInt8[Tensor, "b c f h w"]:
        """Convert [-1, 1] to the nearest level 0..255, clipped: the exact inverse of `to_model`."""
        return to_stored(signal)

    def seconds(self, length: int) -> float | None:
        """Return the duration of `length` frames in seconds, or None without a frame rate."""
        return None if self.config.frame_rate_hz is None else length / self.config.frame_rate_hz

    def warnings(self, item: UInt8[np.ndarray, "c f h w"]) -> list[str]:
        """Return a warning if all frames of a clip are equal."""
        return ["still throughout"] if (item == item[:, :1]).all() else []

    def check(self, signal: Any) -> list[Float32[Tensor, "1 c _ h w"]]:
        """Validate user input and convert it to the model's range, one tensor per clip.

        Args:
            signal: a tensor or an array of the modality's size, uint8 or float in [-1, 1], `(B, C, F, H, W)`
                or `(C, F, H, W)`, or with the channels last; a file, its bytes or a folder of frames, read by
                `decode`; or a list of these.

        Raises:
            InputError: for another type, range, number of channels or size, or for an unreadable file.
        """
        match signal:
            case Tensor():
                return self._checked(signal)
            case np.ndarray():
                return self._checked(as_tensor(signal))
            case str() | Path() | bytes():
                return self._checked(torch.from_numpy(self._read(signal)))
            case list() | tuple():
                if not signal:
                    raise InputError("expected at least one clip, received an empty list")
                return [clip for one in signal for clip in self.check(one)]
        raise InputError(
            f"expected clips as tensors, arrays, files or a list of these, received {type(signal).__name__}"
        )

    def stream(self) -> ElementwiseStream:
        """Return a converter of blocks of frames, as for `check`."""
        return ElementwiseStream(self.check, self.plural_name)

    def blocks(self, content: Any) -> Iterator[UInt8[np.ndarray, "c f h w"]] | None:
        """Read a long video file block by block; None for a short one and for any other content."""
        if not (isinstance(content, Path) and content.is_file()):
            return None
        # A small file may hold many frames of its own size.
        if None not in self.fit.sides and content.stat().st_size < LONG_BYTES:
            return None
        return clip_blocks(content, self.config.frame_rate_hz, partial(self.config.read, fit=self.fit))

    def preview(self, rows: Sequence[Any]) -> Image.Image:
        """Draw strips of evenly spaced frames: for each clip, one strip per element of `rows`.

        Args:
            rows: batches `(B, C, F, H, W)`, or lists of `(C, F, H, W)`, uint8 or float in [-1, 1]; the first
                eight clips are shown.

        Raises:
            InputError: if the rows are empty or differ in length.
        """
        counts = {len(row) for row in rows}
        if len(counts) != 1 or 0 in counts:
            raise InputError(
                f"expected rows with the same number of clips, at least one, received {[*map(len, rows)]}"
            )
        clips = [[self._levels(clip) for clip in row[:SHOWN]] for row in rows]
        columns = min(STRIP, max(clip.shape[1] for row in clips for clip in row))
        strips = [[frame for clip in row for frame in _strip(clip, columns)] for row in clips]
        return picture_grid(of_one_size(strips), columns)

    def save(self, signal: Tensor | np.ndarray, path: str | Path) -> None:
        """Write one clip as MP4 or GIF, by the extension of the path.

        It plays at the modality's frame rate, or at 25 frames per second if there is none.

        Args:
            signal: `(C, F, H, W)` or `(1, C, F, H, W)`, uint8 or float in [-1, 1].
            path: path of the file.

        Raises:
            InputError: if the signal is not one clip, or the path has another extension.
        """
        if signal.ndim == 5 and len(signal) != 1:
            raise InputError(
                f"expected one clip, received {len(signal)}: save them one by one, or use preview"
            )
        self.save_blocks([signal if signal.ndim == 5 else signal[None]], path)

    def save_blocks(
        self, blocks: Iterable[Shaped[Tensor | np.ndarray, "1 c _ h w"]], path: str | Path
    ) -> None:
        """Write one clip, given block by block, in bounded memory if it becomes an MP4; see `save`."""
        frames = (frame for block in blocks for frame in self._levels(block[0]).transpose(1, 2, 3, 0))
        write_clip(frames, path, self.config.frame_rate_hz or UNKNOWN_RATE_HZ)

    def _read(self, clip: str | Path | bytes) -> UInt8[np.ndarray, "c f h w"]:
        """Read one clip that the user passed; convert `UnreadableItem` to `InputError`."""
        try:
            return self.decode(Path(clip) if isinstance(clip, str) else clip)
        except UnreadableItem as error:
            name = str(clip) if isinstance(clip, (str, Path)) else "the input"
            raise InputError(f"{name} cannot be read as a clip: {error}; check the file") from error

    def _checked(self, signal: Tensor) -> list[Float32[Tensor, "1 c _ h w"]]:
        clips = channels_first(signal, self.stored_shape)
        if clips is None or not len(clips):
            sides = ", ".join(str(side or axis) for side, axis in zip(self.stored_shape, "CFHW", strict=True))
            raise InputError(
                f"expected non-empty clips of shape (B, {sides}), received {tuple(signal.shape)}: resize "
                "them, or pass files, which are resized"
            )
        return list(in_range(clips).split(1))

    def _levels(self, clip: Tensor | np.ndarray) -> UInt8[np.ndarray, "c f h w"]:
        """Convert one clip to levels on the CPU."""
        tensor = as_tensor(clip) if isinstance(clip, np.ndarray) else clip
        if tensor.ndim != 4 or tensor.shape[0] not in (1, 3) or 0 in tensor.shape:
            raise InputError(
                f"expected clips (C, F, H, W) with 1 or 3 channels, received {tuple(tensor.shape)}"
            )
        return as_levels(tensor)


def _strip(clip: UInt8[np.ndarray, "c f h w"], count: int) -> UInt8[np.ndarray, "n c h w"]:
    """Take `count` evenly spaced frames, from the first to the last."""
    at = np.linspace(0, clip.shape[1] - 1, count).round().astype(int)
    return clip[:, at].swapaxes(0, 1)
