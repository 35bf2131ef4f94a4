"""The image modality: uint8 `(C, H, W)` images, and their conversion to the model's range and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.modality import MODALITIES, Modality
from smalti.core.signals import Levels, SignalSpec
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.image.formats import EXTENSIONS
from smalti.modalities.image.lossless import lossless_bits_per_dim
from smalti.modalities.image.pictures import MODES, to_picture
from smalti.modalities.image.pixels import (
    LEVELS,
    PictureConfig,
    as_levels,
    as_tensor,
    in_range,
    picture_grid,
    to_model,
    to_stored,
)


@MODALITIES.register
class ImageConfig(PictureConfig):
    """Settings of `ImageModality`.

    Attributes:
        flip: mirror half of the training images horizontally, at random; not for letters or digits.
            Validation and evaluation use the images as they are.
    """

    kind: Literal["image"] = "image"
    flip: bool = False

    @classmethod
    def tiny(cls) -> ImageConfig:
        """Return the smallest useful settings, for tests."""
        return cls(size=(8, 8))

    def build(self) -> ImageModality:
        """Build the modality."""
        return ImageModality(self)


@final
class ImageModality(Modality):
    """Images `(B, C, H, W)` in 256 levels, which a model sees in [-1, 1]."""

    extensions = EXTENSIONS
    ending = ".png"
    plural_name = "pictures"

    def __init__(self, config: ImageConfig) -> None:
        """
        Raises:
            InputError: if the size is not set.
        """
        self.config = config
        self.height, self.width = config.sides

    @property
    def spec(self) -> SignalSpec:
        """Channels, size and levels of every signal."""
        return SignalSpec(
            channels=self.config.channels,
            size=(self.height, self.width),
            domain=Levels(LEVELS),
            axes=("height", "width"),
        )

    def protocol(self) -> dict[str, Any]:
        """Return every setting that affects measurements on these images, as plain JSON values."""
        return self.config.reading()

    def decode(self, content: Path | bytes | np.ndarray | Image.Image) -> UInt8[np.ndarray, "c h w"]:
        """Read one image with `read_picture`. An image of the modality's size keeps its exact pixels.

        Args:
            content: a file, its bytes, a PIL image, or uint8 or uint16 pixels.

        Raises:
            UnreadableItem: with the reason, if the image cannot be read.
        """
        return self.config.read(content)

    def augment(
        self, stored: UInt8[Tensor, "b c h w"], draws: Float[Tensor, " b"]
    ) -> UInt8[Tensor, "b c h w"]:
        """Mirror the images whose draw is below 1/2, if `flip` is set."""
        if not self.config.flip:
            return stored
        return torch.where((draws < 0.5).view(-1, 1, 1, 1), stored.flip(3), stored)

    def to_model(self, levels: UInt8[Tensor, "b c h w"]) -> Float32[Tensor, "b c h w"]:
        """Convert levels 0..255 to [-1, 1]: x / 127.5 - 1."""
        return to_model(levels)

    def to_stored(self, signal: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
        """Convert [-1, 1] to the nearest level 0..255, clipped: the exact inverse of `to_model`."""
        return to_stored(signal)

    def check(self, signal: Any) -> Float32[Tensor, "b c h w"]:
        """Validate user input and convert it to the model's range.

        Args:
            signal: a tensor or an array of the modality's size, uint8 or float in [-1, 1], `(B, C, H, W)` or
                `(C, H, W)`, or with the channels last, or `(H, W)` for greyscale; a PIL image, a file or its
                bytes, which `decode` resizes; or a list of these.

        Raises:
            InputError: for another type, range, number of channels or size, or for an unreadable file.
        """
        match signal:
            case Tensor():
                return self._check_tensor(signal)
            case np.ndarray():
                return self._check_tensor(as_tensor(signal))
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

    def lossless(self, items: Iterable[np.ndarray]) -> dict[str, float]:
        """Return bits/dim of stored pictures as PNG and as lossless WebP."""
        return lossless_bits_per_dim(items)

    def preview(
        self,
        rows: Sequence[Tensor | np.ndarray | list[Tensor]],
        columns: int = 8,
        scale: int | None = None,
    ) -> Image.Image:
        """Draw images in a grid: one row per element of `rows`, one column per image.

        Args:
            rows: batches `(B, C, H, W)`, or lists of `(C, H, W)`, of the same shape, uint8 or float in
                [-1, 1], with the originals in `rows[0]`.
            columns: images side by side; further images continue below in further bands of rows.
            scale: integer magnification; None enlarges small images to about 96 pixels.

        Raises:
            InputError: if the rows are empty or differ in shape.
        """
        stacked = [torch.stack(row) if isinstance(row, list) else row for row in rows]
        batches = [self._pixels(row) for row in stacked]
        shapes = {batch.shape for batch in batches}
        if len(shapes) != 1 or 0 in batches[0].shape:
            raise InputError(
                f"expected non-empty rows of images of the same shape, received {sorted(shapes)}: "
                f"pass batches of equal shape"
            )
        return picture_grid(batches, columns, scale)

    def save(self, signal: Tensor | np.ndarray, path: str | Path) -> None:
        """Write one image, `(C, H, W)` or `(1, C, H, W)`, uint8 or float in [-1, 1], as PNG.

        Raises:
            InputError: if the signal is not one image.
        """
        batch = self._pixels(signal[None] if signal.ndim == 3 else signal)
        if len(batch) != 1:
            raise InputError(
                f"expected one image, received {len(batch)}: save them one by one, or use preview"
            )
        to_picture(batch[0].transpose(1, 2, 0)).save(path, format="PNG")

    def _read(self, signal: Image.Image | str | Path | bytes) -> UInt8[np.ndarray, "c h w"]:
        """Read one image that the user passed; convert `UnreadableItem` to `InputError`."""
        try:
            return self.decode(Path(signal) if isinstance(signal, str) else signal)
        except UnreadableItem as error:
            name = str(signal) if isinstance(signal, (str, Path)) else "the input"
            raise InputError(f"{name} cannot be read as an image: {error}; check the file") from error

    def _check_tensor(self, signal: Tensor) -> Float32[Tensor, "b c h w"]:
        expected = (self.config.channels, self.height, self.width)
        batch = _channels_first(signal, expected)
        if batch is None:
            raise InputError(
                f"expected images of shape (B, {expected[0]}, {expected[1]}, {expected[2]}), received "
                f"{tuple(signal.shape)}: resize them, or pass PIL images or files, which are resized"
            )
        return in_range(batch)

    def _pixels(self, signal: Tensor | np.ndarray) -> UInt8[np.ndarray, "b c h w"]:
        """Convert a batch to levels on the CPU."""
        batch = as_tensor(signal) if isinstance(signal, np.ndarray) else signal
        if batch.ndim != 4 or batch.shape[1] not in MODES:
            raise InputError(
                f"expected images (B, C, H, W) with 1 or 3 channels, received {tuple(batch.shape)}"
            )
        return as_levels(batch)


def _channels_first(signal: Tensor, expected: tuple[int, int, int]) -> Tensor | None:
    """Rearrange a signal to `(B, C, H, W)` with the expected `(C, H, W)`; None if its shape does not fit."""
    channels, height, width = expected
    shape = tuple(signal.shape)
    if shape[-3:] == expected and signal.ndim in (3, 4):
        return signal.reshape(-1, *expected) if signal.ndim == 3 else signal
    if shape[-3:] == (height, width, channels) and signal.ndim in (3, 4):
        return signal.movedim(-1, -3).reshape(-1, *expected)
    if channels == 1 and shape == (height, width):
        return signal.reshape(1, *expected)
    return None
