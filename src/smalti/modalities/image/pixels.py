"""What the modalities of pictures and clips share: how they are read, their range, what is shown of them.

Every choice that changes a pixel (filter, crop, background, size) is part of `PictureConfig.reading()`,
because figures such as PSNR or bits/dim mean nothing without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from pydantic import BeforeValidator, PositiveInt
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.modality import ModalityConfig
from smalti.modalities.image.pictures import read_picture, to_picture

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


class PictureConfig(ModalityConfig):
    """How every picture, or frame of a clip, is read.

    Attributes:
        channels: 3 for colour, 1 for grey; files of the other kind are converted.
        size: height and width; an int, "64" or "64x48" are understood. None stands for "from the data" and
            must be resolved before a modality is made.
        filter: the resampling filter, for images of another size.
        background: what shows through transparent pixels.
    """

    channels: Literal[1, 3] = 3
    size: Annotated[tuple[PositiveInt, PositiveInt] | None, BeforeValidator(_height_and_width)] = (64, 64)
    filter: Literal["lanczos", "bicubic", "bilinear", "box", "nearest"] = "lanczos"
    background: Literal["white", "black"] = "white"

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width.

        Raises:
            InputError: when the size was left open.
        """
        if self.size is None:
            raise InputError("a size is needed, none was given: set size=64 or size=64x48 (height x width)")
        return self.size

    def read(self, content: Path | bytes | np.ndarray | Image.Image) -> UInt8[np.ndarray, "c h w"]:
        """One picture in the size, as `read_picture` makes it: the same pixels, if it has that size already.

        Raises:
            UnreadableItem: with the reason, when there is no such picture in it.
        """
        return read_picture(content, self.channels, self.sides, self.filter, self.background)

    def reading(self) -> dict[str, Any]:
        """How `read` reads and what a model sees of it, as a part of a modality's protocol."""
        return {
            "channels": self.channels,
            "size": list(self.sides),
            "crop": "centre",
            "filter": self.filter,
            "background": self.background,
            "range": [-1.0, 1.0],
            "levels": LEVELS,
        }


def to_model(levels: UInt8[Tensor, "b c *size"]) -> Float32[Tensor, "b c *size"]:
    """Levels 0..255 to [-1, 1]: x / 127.5 - 1."""
    return levels.to(torch.float32).div_(127.5).sub_(1.0)


def to_stored(signal: Float[Tensor, "b c *size"]) -> UInt8[Tensor, "b c *size"]:
    """[-1, 1] to the nearest level 0..255, clipped: the exact inverse of `to_model`."""
    return ((signal.detach().to(torch.float32) + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def in_range(batch: Tensor) -> Float32[Tensor, "b c *size"]:
    """What a user passes, uint8 levels or floats in [-1, 1], in the range of a model.

    Raises:
        InputError: for another type or range.
    """
    if batch.dtype == torch.uint8:
        return to_model(batch)
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


def as_levels(batch: Tensor) -> UInt8[np.ndarray, "b c *size"]:
    """Levels, or floats in [-1, 1], as levels on the host."""
    return (batch if batch.dtype == torch.uint8 else to_stored(batch)).detach().cpu().numpy()


def as_tensor(array: np.ndarray) -> Tensor:
    """The array as torch can take it without a warning: writable and without negative strides.

    Raises:
        InputError: for elements that are no numbers.
    """
    if array.dtype.kind not in "biuf":
        raise InputError(f"expected an array of uint8 or float, received {array.dtype}")
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def picture_grid(
    batches: Sequence[UInt8[np.ndarray, "b c h w"]], columns: int, scale: int | None = None
) -> Image.Image:
    """Each image of `batches[0]` with those of the others under it.

    Args:
        batches: of one shape.
        columns: images side by side; further ones go into further bands.
        scale: whole factor of enlargement; None enlarges small images to about 96 pixels.
    """
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
