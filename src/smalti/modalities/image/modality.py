"""The image modality: uint8 `(C, H, W)` images, and their conversion to the model's range and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from pydantic import PositiveInt, model_validator
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.modality import MODALITIES, Modality
from smalti.core.signals import Levels, SignalSpec
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.image.fit import Fit, Middle, Whole
from smalti.modalities.image.formats import EXTENSIONS
from smalti.modalities.image.lossless import lossless_bits_per_dim
from smalti.modalities.image.pictures import MODES, to_picture
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


@MODALITIES.register
class ImageConfig(PictureConfig):
    """Settings of `ImageModality`.

    Attributes:
        flip: mirror half of the training images horizontally, at random; not for letters or digits.
            Validation and evaluation use the images as they are.
        crop: "none" scales pictures to cover `size`. "random" trains on another crop of `size` at each step,
            cut out at the working size (see `resize`); "center" on the middle. Everything but training uses
            the middle, unless it encodes pictures of their native size.
        resize: length of the shorter side at the working size of a crop; none for pictures as they are. Both
            sides are at least those of `size`.
    """

    kind: Literal["image"] = "image"
    flip: bool = False
    crop: Literal["none", "random", "center"] = "none"
    resize: PositiveInt | None = None

    @model_validator(mode="after")
    def _resizes_crops_only(self) -> ImageConfig:
        if self.crop == "none" and self.resize is not None:
            raise ValueError(
                f"expected crop=random or crop=center with resize={self.resize}, received crop=none; set "
                "one of them, or leave resize out"
            )
        return self

    @property
    def fit(self) -> Fit:
        """How items are scaled and cropped, except for random crops.

        Raises:
            InputError: if the size is not set.
        """
        return super().fit if self.crop == "none" else Middle(Whole(self.resize, self.sides))

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

    def __init__(self, config: ImageConfig, fit: Fit | None = None) -> None:
        """
        Args:
            config: settings.
            fit: how pictures are scaled and cropped; None for that of the settings.

        Raises:
            InputError: if the size is not set.
        """
        self.config, self.fit = config, fit or config.fit
        self.height, self.width = config.sides
        self.is_ragged = None in self.fit.sides

    @property
    def portion(self) -> str:
        """Says which pixels of pictures are read."""
        return self.fit.portion(self.plural_name)

    def for_training(self) -> ImageModality:
        """Return the modality of pictures of the working size, for random crops."""
        if self.config.crop != "random":
            return self
        return ImageModality(self.config, Whole(self.config.resize, self.config.sides))

    def native(self) -> ImageModality:
        """Return the modality of whole pictures of any size."""
        return ImageModality(self.config, Whole())

    @property
    def stored_shape(self) -> tuple[int | None, ...]:
        """Shape of a stored item; None for the sides in which items differ."""
        return (self.config.channels, *self.fit.sides)

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
        return self.config.reading(self.fit)

    def decode(self, content: Path | bytes | np.ndarray | Image.Image) -> UInt8[np.ndarray, "c h w"]:
        """Read one image with `read_picture`. An image of the modality's size keeps its exact pixels.

        Args:
            content: a file, its bytes, a PIL image, or uint8 or uint16 pixels.

        Raises:
            UnreadableItem: with the reason, if the image cannot be read.
        """
        return self.config.read(content, self.fit)

    def augment(
        self, stored: UInt8[Tensor, "b c h w"], draws: Float[Tensor, " b"]
    ) -> UInt8[Tensor, "b c h w"]:
        """Mirror the images whose draw is below 1/2, if `flip` is set."""
        if not self.config.flip:
            return stored
        return torch.where((draws < 0.5).view(-1, 1, 1, 1), stored.flip(3), stored)

    @property
    def num_views(self) -> int:
        """Two with `flip`: the image, and its mirror image."""
        return 2 if self.config.flip else 1

    def view(self, stored: UInt8[np.ndarray, "c h w"], number: int) -> UInt8[np.ndarray, "c h w"]:
        """The image for 0, its mirror image for 1."""
        return np.ascontiguousarray(stored[..., ::-1]) if number else stored

    def to_model(self, levels: UInt8[Tensor, "b c h w"]) -> Float32[Tensor, "b c h w"]:
        """Convert levels 0..255 to [-1, 1]: x / 127.5 - 1."""
        return to_model(levels)

    def to_stored(self, signal: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
        """Convert [-1, 1] to the nearest level 0..255, clipped: the exact inverse of `to_model`."""
        return to_stored(signal)

    def check(self, signal: Any) -> Any:
        """Validate user input and convert it to the model's range.

        Args:
            signal: a tensor or an array of the modality's size, uint8 or float in [-1, 1], `(B, C, H, W)` or
                `(C, H, W)`, or with the channels last, or `(H, W)` for greyscale; a PIL image, a file or its
                bytes, which `decode` resizes; or a list of these.

        Returns:
            `(B, C, H, W)`, or a list of `(1, C, H, W)` if pictures keep their own size.

        Raises:
            InputError: for another type, range, number of channels or size, or for an unreadable file.
        """
        batches = self._batches(signal)
        return [one for batch in batches for one in batch.split(1)] if self.is_ragged else torch.cat(batches)

    def _batches(self, signal: Any) -> list[Float32[Tensor, "_ c h w"]]:
        match signal:
            case Tensor():
                return [self._check_tensor(signal)]
            case np.ndarray():
                return [self._check_tensor(as_tensor(signal))]
            case Image.Image() | str() | Path() | bytes():
                return [self._check_tensor(torch.from_numpy(self._read(signal)))]
            case list() | tuple():
                if not signal:
                    raise InputError("expected at least one image, received an empty list")
                return [batch for one in signal for batch in self._batches(one)]
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
            rows: batches `(B, C, H, W)`, or lists of `(C, H, W)`, uint8 or float in [-1, 1], with the
                originals in `rows[0]`. The same image has one size in all rows.
            columns: images side by side; further images continue below in further bands of rows.
            scale: integer magnification; None enlarges small images to about 96 pixels.

        Raises:
            InputError: if the rows are empty or differ in shape.
        """
        pictures = [[self._pixels(one[None])[0] for one in row] for row in rows]
        shapes = {tuple(one.shape for one in row) for row in pictures}
        if len(shapes) != 1 or not pictures[0] or any(0 in shape for shape in next(iter(shapes))):
            raise InputError(
                f"expected non-empty rows of images of the same shape, received {sorted(shapes)}: pass as "
                "many images in each row, and the same image in one size"
            )
        return picture_grid(of_one_size(pictures), columns, scale)

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
        expected = self.stored_shape
        if expected[0] == 1 and signal.ndim == 2:
            signal = signal.unsqueeze(0)
        batch = channels_first(signal, expected)
        if batch is None:
            sides = [side or axis for side, axis in zip(expected, "CHW", strict=True)]
            advice = (
                "pass images of at least one pixel"
                if self.is_ragged
                else "resize them, or pass PIL images or files, which are resized"
            )
            raise InputError(
                f"expected images of shape (B, {', '.join(map(str, sides))}), received "
                f"{tuple(signal.shape)}: {advice}"
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
