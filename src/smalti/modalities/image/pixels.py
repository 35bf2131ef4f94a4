"""Shared code of the image and video modalities: settings, range conversion and previews.

Every setting that changes pixels (filter, crop, background, size) is part of `PictureConfig.reading()`,
because measurements such as PSNR or bits/dim depend on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from pydantic import BeforeValidator, PositiveInt
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.modality import ModalityConfig
from smalti.modalities.image.depth import AUTO, parse_range, survey
from smalti.modalities.image.fit import Cover, Fit
from smalti.modalities.image.pictures import MARGIN, read_picture, to_picture

LEVELS = 256
RANGE_TOLERANCE = 1e-4
"""Tolerated excess over [-1, 1], for rounding errors."""

JPEG = f"those scaled down are reduced by their decoder first, to at least {MARGIN} times the size"
"""How large JPEGs are decoded, unless `filter` is nearest."""

PREVIEW_SIDE = 96
"""Small images are enlarged in previews until their longer side has about this many pixels."""
PREVIEW_GAP = 2
PREVIEW_MOST = 384
"""Longest side of pictures of different sizes in a preview."""

P = TypeVar("P", bound="PictureConfig")


def _height_and_width(size: Any) -> Any:
    """Convert `64`, "64" and "64x48" (height x width) to a pair; leave anything else to pydantic."""
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
    """Settings for reading images and the frames of clips.

    Attributes:
        channels: 3 for colour, 1 for greyscale; other files are converted.
        size: height and width; an int, "64" and "64x48" are accepted. None stands for the size of the data
            and must be resolved before a modality is built.
        filter: resampling filter for resizing.
        background: colour behind transparent pixels.
        range: values of pictures of more than 8 bits that become 0 to 255: "full" (0:65535), "LOW:HIGH" such
            as "0:4095" (others are clipped), a depth such as "12bit" (0:4095; pictures with larger values are
            unreadable), or "auto": `train` chooses 8, 10, 12, 14 or 16 bits by the largest value of the
            training data. Values of floating point are in 0:1, except with "LOW:HIGH".
    """

    measured_fields: ClassVar[tuple[str, ...]] = ("range",)

    channels: Literal[1, 3] = 3
    size: Annotated[tuple[PositiveInt, PositiveInt] | None, BeforeValidator(_height_and_width)] = (64, 64)
    filter: Literal["lanczos", "bicubic", "bilinear", "box", "nearest"] = "lanczos"
    background: Literal["white", "black"] = "white"
    range: Annotated[str, BeforeValidator(parse_range)] = AUTO

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width.

        Raises:
            InputError: if the size is not set.
        """
        if self.size is None:
            raise InputError("expected a size, received none: set size=64 or size=64x48 (height x width)")
        return self.size

    def surveyed(self: P, contents: Iterable[Any]) -> tuple[P, list[str]]:
        """Choose the range of 16-bit pictures, if it is "auto"."""
        if self.range != AUTO:
            return self, []
        chosen, notes = survey(contents)
        return self.model_copy(update={"range": chosen}), notes

    @property
    def fit(self) -> Fit:
        """How items are scaled and cropped: to cover the size, then at the centre.

        Raises:
            InputError: if the size is not set.
        """
        return Cover(*self.sides)

    def read(
        self, content: Path | bytes | np.ndarray | Image.Image, fit: Fit | None = None
    ) -> UInt8[np.ndarray, "c h w"]:
        """Read one image with `read_picture`. An image that already has the size keeps its exact pixels.

        Args:
            content: as for `read_picture`.
            fit: how the image is scaled and cropped; None for `fit` of the settings.

        Raises:
            UnreadableItem: with the reason, if the image cannot be read.
        """
        return read_picture(content, self.channels, fit or self.fit, self.filter, self.background, self.range)

    def reading(self, fit: Fit | None = None) -> dict[str, Any]:
        """Return the settings of `read` and the model's range, for a modality's protocol."""
        return {
            "channels": self.channels,
            **(fit or self.fit).protocol(),
            "filter": self.filter,
            "background": self.background,
            "jpeg": JPEG,
            "pixel_range": self.range,
            "range": [-1.0, 1.0],
            "levels": LEVELS,
        }


def to_model(levels: UInt8[Tensor, "b c *size"]) -> Float32[Tensor, "b c *size"]:
    """Convert levels 0..255 to [-1, 1]: x / 127.5 - 1."""
    return levels.to(torch.float32).div_(127.5).sub_(1.0)


def to_stored(signal: Float[Tensor, "b c *size"]) -> UInt8[Tensor, "b c *size"]:
    """Convert [-1, 1] to the nearest level 0..255, clipped: the exact inverse of `to_model`."""
    return ((signal.detach().to(torch.float32) + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def in_range(batch: Tensor) -> Float32[Tensor, "b c *size"]:
    """Validate user input, uint8 levels or floats in [-1, 1], and convert it to the model's range.

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
        # This form of the condition refuses NaN too.
        if not (low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
            raise InputError(
                f"expected floats in [-1, 1], received values from {low:g} to {high:g}: "
                f"pass levels 0..255 as uint8, or scale them with x / 127.5 - 1"
            )
        # Zeros alone are mid-grey in either reading, near enough.
        if low >= 0 and high > 0:
            _warn_of_unit_range()
    return batch


@cache
def _warn_of_unit_range() -> None:
    """Warn, once in a process, that floats without a negative value may have been scaled to [0, 1]."""
    warnings.warn(
        "expected floats in [-1, 1], received a batch without negative values: if they are in [0, 1], "
        "scale them with 2 * x - 1, or pass levels 0..255 as uint8",
        stacklevel=2,
    )


def as_levels(batch: Tensor) -> UInt8[np.ndarray, "b c *size"]:
    """Convert levels, or floats in [-1, 1], to levels on the CPU."""
    return (batch if batch.dtype == torch.uint8 else to_stored(batch)).detach().cpu().numpy()


def as_tensor(array: np.ndarray) -> Tensor:
    """Convert an array to a tensor, copying it if it is read-only or has negative strides.

    Raises:
        InputError: if the elements are not numbers.
    """
    if array.dtype.kind not in "biuf":
        raise InputError(f"expected an array of uint8 or float, received {array.dtype}")
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def channels_first(signal: Tensor, expected: Sequence[int | None]) -> Tensor | None:
    """Return a signal as a batch `(B, C, *size)`, also if it is one item or has the channels last.

    Args:
        signal: from a user.
        expected: shape `(C, *size)` of an item; None for any side.

    Returns:
        None if the shape does not fit.
    """
    ndim = len(expected)
    if signal.ndim not in (ndim, ndim + 1) or 0 in signal.shape[-ndim:]:
        return None
    for batch in (signal, signal.movedim(-1, -ndim)):
        if all(side in (None, given) for given, side in zip(batch.shape[-ndim:], expected, strict=True)):
            return batch.reshape(-1, *batch.shape[-ndim:])
    return None


def of_one_size(
    rows: Sequence[Sequence[UInt8[np.ndarray, "_ _ _"]]],
) -> list[UInt8[np.ndarray, "b c h w"]]:
    """Stack rows of pictures for a preview; pictures of different sizes are reduced, and framed in white.

    Args:
        rows: of equally many pictures.
    """
    shapes = {picture.shape for row in rows for picture in row}
    if len(shapes) <= 1:
        return [np.stack(row) for row in rows]
    reduced = [[_reduced(picture) for picture in row] for row in rows]
    height, width = (max(one.shape[axis] for row in reduced for one in row) for axis in (1, 2))
    return [np.stack([_framed(one, height, width) for one in row]) for row in reduced]


def _reduced(picture: UInt8[np.ndarray, "_ _ _"]) -> UInt8[np.ndarray, "_ _ _"]:
    """Scale a picture down to sides of at most `PREVIEW_MOST`."""
    channels, height, width = picture.shape
    if max(height, width) <= PREVIEW_MOST:
        return picture
    image = to_picture(picture.transpose(1, 2, 0))
    image.thumbnail((PREVIEW_MOST, PREVIEW_MOST), Image.Resampling.BOX)
    return np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)


def _framed(picture: UInt8[np.ndarray, "_ _ _"], height: int, width: int) -> UInt8[np.ndarray, "_ _ _"]:
    below, right = height - picture.shape[1], width - picture.shape[2]
    return np.pad(picture, ((0, 0), (0, below), (0, right)), constant_values=255)


def picture_grid(
    batches: Sequence[UInt8[np.ndarray, "b c h w"]], columns: int, scale: int | None = None
) -> Image.Image:
    """Draw images in a grid: one row per batch, one column per image.

    Args:
        batches: batches of the same shape `(B, C, H, W)`.
        columns: images side by side; further images continue below in further bands of rows.
        scale: integer magnification; None enlarges small images to about 96 pixels.
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
