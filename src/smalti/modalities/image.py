"""Images as a modality: uint8 `(C, H, W)` from `pictures`, and from there to a model's range and back.

Every choice that changes a pixel (filter, crop, background, size) is part of `protocol()`, because figures
such as PSNR or bits/dim mean nothing without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from pydantic import BeforeValidator, PositiveInt
from torch import Tensor

from smalti.data.sources.base import UnreadableItem
from smalti.interfaces import Configuration, InputError, Modality, SignalSpec
from smalti.modalities.pictures import EXTENSIONS, MODES, read_picture, to_picture

LEVELS = 256
RANGE_TOLERANCE = 1e-4
"""How far a float signal may leave [-1, 1], so that rounding is not taken for a wrong range."""

PREVIEW_SIDE = 96
"""Small images are enlarged in previews until their longer side is about this many pixels."""
PREVIEW_GAP = 2


def _height_and_width(size: Any) -> Any:
    """`64`, "64" and "64x48" (height x width) as a pair; anything else is left to pydantic."""
    if isinstance(size, str):
        sides = [side.strip() for side in size.lower().split("x")]
        if len(sides) > 2 or not all(side.isdecimal() for side in sides):
            raise ValueError(
                f'expected a side such as "64" or a "HEIGHTxWIDTH" such as "64x48", got "{size}"'
            )
        return tuple(int(side) for side in (sides * 2 if len(sides) == 1 else sides))
    if isinstance(size, int) and not isinstance(size, bool):
        return (size, size)
    return size


class ImageConfig(Configuration):
    """How images are read.

    Attributes:
        channels: 3 for colour, 1 for grey; files of the other kind are converted.
        size: height and width; an int, "64" or "64x48" are understood. None stands for "from the data" and
            must be resolved before an `ImageModality` is made.
        filter: the resampling filter, for images of another size.
        background: what shows through transparent pixels.
    """

    kind: Literal["image"] = "image"
    channels: Literal[1, 3] = 3
    size: Annotated[tuple[PositiveInt, PositiveInt] | None, BeforeValidator(_height_and_width)] = (64, 64)
    filter: Literal["lanczos", "bicubic", "bilinear", "box", "nearest"] = "lanczos"
    background: Literal["white", "black"] = "white"

    @classmethod
    def tiny(cls) -> ImageConfig:
        """The smallest useful one, for tests."""
        return cls(size=(8, 8))


@final
class ImageModality(Modality):
    """Images as signals `(B, C, H, W)`: 256 levels, in [-1, 1] for a model."""

    extensions = EXTENSIONS
    ending = ".png"
    noun = "pictures"

    def __init__(self, config: ImageConfig) -> None:
        """
        Raises:
            InputError: when the size was left open.
        """
        if config.size is None:
            raise InputError(
                "an image size is needed, none was given: set size=64 or size=64x48 (height x width)"
            )
        self.config = config
        self.height, self.width = config.size

    @property
    def spec(self) -> SignalSpec:
        """Channels, size and levels of every signal."""
        return SignalSpec(channels=self.config.channels, size=(self.height, self.width), levels=LEVELS)

    def protocol(self) -> dict[str, Any]:
        """All that a figure measured on these images depends on, as plain JSON values."""
        return {
            "channels": self.config.channels,
            "size": [self.height, self.width],
            "crop": "centre",
            "filter": self.config.filter,
            "background": self.config.background,
            "range": [-1.0, 1.0],
            "levels": LEVELS,
        }

    def decode(self, content: Path | bytes | np.ndarray | Image.Image) -> UInt8[np.ndarray, "c h w"]:
        """One image in the size, as `read_picture` makes it: the same pixels, if it has that size already.

        Args:
            content: a file, its bytes, a PIL image, or pixels, uint8 or uint16.

        Raises:
            UnreadableItem: with the reason, when there is no such image in it.
        """
        config = self.config
        return read_picture(
            content, config.channels, (self.height, self.width), config.filter, config.background
        )

    def to_model(self, levels: UInt8[Tensor, "b c h w"]) -> Float32[Tensor, "b c h w"]:
        """Levels 0..255 to [-1, 1]: x / 127.5 - 1."""
        return levels.to(torch.float32).div_(127.5).sub_(1.0)

    def to_stored(self, signal: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
        """[-1, 1] to the nearest level 0..255, clipped: the exact inverse of `to_model`."""
        return ((signal.detach().to(torch.float32) + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def check(self, signal: Any) -> Float32[Tensor, "b c h w"]:
        """What a user passes as images, in the range of a model.

        Args:
            signal: a tensor or an array of the modality's size, uint8 or float in [-1, 1], `(B, C, H, W)` or
                `(C, H, W)`, also with the channels last, or `(H, W)` for grey; a PIL image, a file or its
                bytes, which are fitted to the size as `decode` does; or a list of these.

        Raises:
            InputError: for another type, range, number of channels or size, or a file that is no image.
        """
        match signal:
            case Tensor():
                return self._check_tensor(signal)
            case np.ndarray():
                return self._check_tensor(torch.from_numpy(_own(signal)))
            case Image.Image() | str() | Path() | bytes():
                return self._check_tensor(torch.from_numpy(self._read(signal)))
            case list() | tuple():
                if not signal:
                    raise InputError("expected at least one image, received an empty list")
                return torch.cat([self.check(one) for one in signal])
        raise InputError(
            f"expected images as a tensor, an array, a PIL image, a file or a list of these, "
            f"received {type(signal).__name__}"
        )

    def preview(
        self,
        rows: Sequence[Tensor | np.ndarray | list[Tensor]],
        columns: int = 8,
        scale: int | None = None,
    ) -> Image.Image:
        """A grid for figures: each image of `rows[0]` with those of the other rows under it.

        Args:
            rows: batches `(B, C, H, W)`, or lists of `(C, H, W)`, of one shape, uint8 or float in [-1, 1];
                originals come first.
            columns: images side by side; further ones go into further bands.
            scale: whole factor of enlargement; None enlarges small images to about 96 pixels.

        Raises:
            InputError: when there is nothing to show, or the rows differ in shape.
        """
        stacked = [torch.stack(row) if isinstance(row, list) else row for row in rows]
        batches = [self._pixels(row) for row in stacked]
        shapes = {batch.shape for batch in batches}
        if len(shapes) != 1 or 0 in batches[0].shape:
            raise InputError(
                f"expected rows of images of one shape, received {sorted(shapes)}: "
                f"pass batches of equal shape that are not empty"
            )
        count, channels, height, width = batches[0].shape
        scale = scale or max(1, round(PREVIEW_SIDE / max(height, width)))
        columns = min(columns, count)
        bands = -(-count // columns)

        def pad(pixels: np.ndarray, *widths: tuple[int, int]) -> np.ndarray:
            return np.pad(pixels, widths, constant_values=255)

        none, before, after = (0, 0), (PREVIEW_GAP, 0), (0, PREVIEW_GAP)
        cells = np.stack(batches, axis=1).repeat(scale, axis=3).repeat(scale, axis=4)
        cells = pad(cells, (0, bands * columns - count), none, none, after, after)
        cells = cells.reshape(bands, columns, len(batches), channels, *cells.shape[3:])
        lines = cells.transpose(0, 2, 4, 1, 5, 3).reshape(bands, -1, columns * cells.shape[5], channels)
        lines = pad(lines, none, after, none, none)
        return to_picture(pad(lines.reshape(-1, *lines.shape[2:]), before, before, none))

    def save(self, signal: Tensor | np.ndarray, path: str | Path) -> None:
        """Write one signal, `(C, H, W)` or `(1, C, H, W)`, uint8 or float in [-1, 1], as a PNG file.

        Raises:
            InputError: when it is not one image.
        """
        batch = self._pixels(signal[None] if signal.ndim == 3 else signal)
        if len(batch) != 1:
            raise InputError(
                f"expected one image, received {len(batch)}: save them one by one, or use preview"
            )
        to_picture(batch[0].transpose(1, 2, 0)).save(path, format="PNG")

    def _read(self, signal: Image.Image | str | Path | bytes) -> UInt8[np.ndarray, "c h w"]:
        """`decode`, for a user who passed this one image."""
        try:
            return self.decode(Path(signal) if isinstance(signal, str) else signal)
        except UnreadableItem as error:
            name = str(signal) if isinstance(signal, (str, Path)) else "what was passed"
            raise InputError(f"{name} cannot be read as an image: {error}; check the file") from error

    def _check_tensor(self, signal: Tensor) -> Float32[Tensor, "b c h w"]:
        expected = (self.config.channels, self.height, self.width)
        batch = _channels_first(signal, expected)
        if batch is None:
            raise InputError(
                f"expected images of shape (B, {expected[0]}, {expected[1]}, {expected[2]}), received "
                f"{tuple(signal.shape)}: resize them, or pass PIL images or files, which are fitted"
            )
        if batch.dtype == torch.uint8:
            return self.to_model(batch)
        if not batch.is_floating_point():
            raise InputError(
                f"expected uint8 levels 0..255 or floats in [-1, 1], received {batch.dtype}: "
                f"convert levels with .to(torch.uint8) or .astype('uint8')"
            )
        batch = batch.to(torch.float32)
        if batch.numel():
            low, high = (bound.item() for bound in batch.detach().aminmax())
            # Written so that NaN fails too.
            if not (low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
                raise InputError(
                    f"expected floats in [-1, 1], received values from {low:g} to {high:g}: "
                    f"pass levels 0..255 as uint8, or scale them with x / 127.5 - 1"
                )
        return batch

    def _pixels(self, signal: Tensor | np.ndarray) -> UInt8[np.ndarray, "b c h w"]:
        """A batch as levels, on the host."""
        batch = torch.from_numpy(_own(signal)) if isinstance(signal, np.ndarray) else signal.detach()
        if batch.ndim != 4 or batch.shape[1] not in MODES:
            raise InputError(
                f"expected images (B, C, H, W) with 1 or 3 channels, received {tuple(batch.shape)}"
            )
        return (batch if batch.dtype == torch.uint8 else self.to_stored(batch)).cpu().numpy()


def _channels_first(signal: Tensor, expected: tuple[int, int, int]) -> Tensor | None:
    """The signal as `(B, C, H, W)` with the expected `(C, H, W)`, or None when it has no such shape."""
    channels, height, width = expected
    shape = tuple(signal.shape)
    if shape[-3:] == expected and signal.ndim in (3, 4):
        return signal.reshape(-1, *expected) if signal.ndim == 3 else signal
    if shape[-3:] == (height, width, channels) and signal.ndim in (3, 4):
        return signal.movedim(-1, -3).reshape(-1, *expected)
    if channels == 1 and shape == (height, width):
        return signal.reshape(1, *expected)
    return None


def _own(array: np.ndarray) -> np.ndarray:
    """The array as torch can take it without a warning: writable and without negative strides."""
    if array.dtype.kind not in "biuf":
        raise InputError(f"expected an array of uint8 or float, received {array.dtype}")
    return np.require(array, requirements=["C", "W"])
