"""The array modality: time series, multichannel images and volumes, with exact levels or continuous."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from PIL import Image
from pydantic import BeforeValidator, Field, PositiveInt, model_validator
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.modality import MODALITIES, Modality, ModalityConfig
from smalti.core.signals import TIME, Continuous, Domain, Levels, SignalSpec
from smalti.data.sources.base import UnreadableItem
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.modalities.arrays.files import EXTENSIONS, read_array
from smalti.modalities.arrays.preview import array_figure
from smalti.modalities.arrays.scale import ChannelScale

FIXED_AXES: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("width",),
    2: ("height", "width"),
    3: ("depth", "height", "width"),
}
"""Default names of the axes of fixed size, by their number."""


def _sides(size: Any) -> Any:
    """Convert `16` and "16x16x16" to a tuple; leave anything else to pydantic."""
    if isinstance(size, str):
        return tuple(part.strip() for part in size.lower().split("x") if part.strip())
    return (size,) if isinstance(size, int) and not isinstance(size, bool) else size


@MODALITIES.register
class ArrayConfig(ModalityConfig):
    """Settings of `ArrayModality`, for arrays `(C, *size)`, or `(C, T, *size)` if items differ in length.

    Attributes:
        channels: number of channels C. If it is 1, arrays without a channel axis are accepted.
        length: length of a training crop along the time axis, which follows the channels and in which items
            may differ; None if all items have the same size.
        size: sizes of the other axes; "16x16x16" is accepted. There are 1 to 3 axes, including time.
        axes: names of the axes, including time; () for the defaults: time, then width, or height and width,
            or depth, height and width.
        channels_first: True if the channels come first in the files, False if last; it is never guessed.
        key: name of the array in an `.npz` file that holds several.
        levels: number of exact levels, for integers from `lowest` on, scored in bits/dim. None for continuous
            data: floats (or integers as floats), scored by a density in nats/dim.
        lowest: integer that becomes level 0.
        missing: handling of items with NaN: "refuse" skips and lists them; "mask" excludes missing values
            from loss and score and feeds zeros (the mean) to the encoder.
        mean, scale: mean and standard deviation of each channel, for standardising continuous data; if (),
            `train` measures them on the training split.
    """

    measured_fields: ClassVar[tuple[str, ...]] = ("mean", "scale")
    signal_fields: ClassVar[tuple[str, ...]] = ("mean", "scale", "levels", "lowest")

    kind: Literal["array"] = "array"
    channels: PositiveInt = 1
    length: PositiveInt | None = 256
    size: Annotated[tuple[PositiveInt, ...], BeforeValidator(_sides)] = ()
    axes: tuple[str, ...] = ()
    channels_first: bool = True
    key: str | None = None
    levels: int | None = Field(default=None, ge=2, le=1 << 16)
    lowest: int = 0
    missing: Literal["refuse", "mask"] = "refuse"
    mean: tuple[float, ...] = ()
    scale: tuple[Annotated[float, Field(gt=0)], ...] = ()

    @classmethod
    def tiny(cls) -> ArrayConfig:
        """Return the smallest useful settings, for tests."""
        return cls(channels=2, length=16)

    @model_validator(mode="after")
    def _fits(self) -> ArrayConfig:
        if self.missing == "mask" and self.levels is not None:
            raise ValueError("expected continuous data with data.missing=mask: leave data.levels out")
        if not {len(self.mean), len(self.scale)} <= {0, self.channels}:
            raise ValueError(
                f"expected a mean and a scale for each of {self.channels} channels, received "
                f"{len(self.mean)} and {len(self.scale)}: leave both out to have them measured"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes, including time."""
        if self.axes:
            return self.axes
        fixed = FIXED_AXES.get(len(self.size), ("",) * len(self.size))
        return (*(() if self.length is None else (TIME,)), *fixed)

    def build(self) -> ArrayModality:
        """Build the modality.

        Raises:
            InputError: if one of mean and scale is given without the other.
        """
        # Not a validator, because settings may be changed one after another.
        if len(self.mean) != len(self.scale):
            raise InputError(
                f"expected data.mean and data.scale together, received {len(self.mean)} and "
                f"{len(self.scale)} values: leave both out to have them measured"
            )
        return ArrayModality(self)

    def measured(self, items: Iterable[np.ndarray]) -> ArrayConfig:
        """Return the settings with mean and scale of these items, unless they are set or there are levels."""
        if self.levels is not None or self.mean or self.scale:
            return self
        statistics = ChannelScale(self.channels)
        for item in items:
            statistics.add(item)
        mean, scale = statistics.compute()
        return self.model_copy(update={"mean": mean, "scale": scale})


@final
class ArrayModality(Modality):
    """Arrays `(B, C, *size)`, which a model sees as levels in [-1, 1] or as standardised floats.

    Continuous items are stored as float32 in the unit of the data, with NaN for missing values.
    """

    extensions = EXTENSIONS
    ending = ".npy"
    plural_name = "arrays"

    def __init__(self, config: ArrayConfig) -> None:
        """
        Raises:
            InputError: for no axes, more than three, or another number of names.
        """
        # Not a validator of the config, because length and size may be changed one after the other.
        num_axes = (config.length is not None) + len(config.size)
        if not 1 <= num_axes <= 3:
            raise InputError(
                f"expected 1 to 3 axes after the channels, received {num_axes}: set data.length or data.size"
            )
        if len(config.names) != num_axes or len(set(config.names)) != num_axes:
            raise InputError(
                f"expected {num_axes} different names of axes, received {config.names}: leave data.axes out"
            )
        self.config = config
        self.is_ragged = config.length is not None
        self.padding = 0 if config.levels is not None else float("nan")

    @property
    def domain(self) -> Domain:
        """Exact levels, or continuous with mean and scale per channel."""
        config = self.config
        return Continuous(config.mean, config.scale) if config.levels is None else Levels(config.levels)

    @property
    def spec(self) -> SignalSpec:
        """Channels, axes, size of a training crop, and domain."""
        config = self.config
        time = () if config.length is None else (config.length,)
        return SignalSpec(config.channels, (*time, *config.size), domain=self.domain, axes=self.config.names)

    def protocol(self) -> dict[str, Any]:
        """Return every setting that affects measurements on these arrays, as plain JSON values."""
        config = self.config.model_dump(mode="json", exclude={"kind", "length"})
        words = "by channel" if self.config.levels is None else "none, exact levels"
        return {**config, "standardised": words}

    def decode(self, content: Any) -> np.ndarray:
        """Read one array `(C, *size)`: levels, or float32 in the unit of the data.

        Args:
            content: a `.npy` or `.npz` file, its bytes, or an array.

        Raises:
            UnreadableItem: with the reason, if the array cannot be read, or has missing values that are
                refused.
        """
        if isinstance(content, np.ndarray):
            self._check_shape(content.shape, content.dtype)
            array = content
        elif isinstance(content, Path | bytes):
            array = read_array(content, self.config.key, self._check_shape)
        else:
            raise UnreadableItem("not an array")
        if array.ndim == self.spec.ndim:
            array = array[None]
        elif not self.config.channels_first:
            array = np.moveaxis(array, -1, 0)
        return self._levels(array) if self.config.levels is not None else self._floats(array)

    def to_model(self, levels: Tensor) -> Float32[Tensor, "b c *size"]:
        """Convert levels to [-1, 1] or values to (x - mean) / scale per channel, missing values to 0."""
        if self.config.levels is not None:
            return from_levels(levels, self.config.levels)
        mean, scale = self._scale(levels)
        return ((levels.float() - mean) / scale).nan_to_num(nan=0.0)

    def mask(self, stored: Tensor) -> Bool[Tensor, "b c *size"] | None:
        """Return True for each value that is present, or None if values cannot be missing."""
        return ~stored.isnan() if self.config.missing == "mask" else None

    def to_stored(self, signal: Float[Tensor, "b c *size"]) -> Tensor:
        """Convert to the nearest level, or to the unit of the data: the inverse of `to_model`."""
        if self.config.levels is not None:
            levels = to_levels(signal.detach(), self.config.levels)
            return levels.to(getattr(torch, self.domain.dtype.name))
        mean, scale = self._scale(signal)
        return signal.detach().float() * scale + mean

    def render(self, signal: Float[Tensor, "b c *size"]) -> Tensor:
        """Convert a signal in the model's range to the unit of the data."""
        stored = self.to_stored(signal)
        return stored.long() + self.config.lowest if self.config.levels is not None else stored

    def check(self, signal: Any) -> Any:
        """Validate user input and convert it to the model's range.

        Args:
            signal: a tensor or an array in the unit of the data: `(B, C, *size)`, or one item with the layout
                of a file; a file or its bytes; or a list of these.

        Returns:
            `(B, C, *size)`, or a list of `(1, C, T, *size)` if items may differ in length.

        Raises:
            InputError: for another shape or type, missing values that are refused, or an unreadable file.
        """
        items = [self.to_model(torch.from_numpy(item)[None]) for item in self._items(signal)]
        return items if self.is_ragged else torch.cat(items)

    def warnings(self, item: np.ndarray) -> list[str]:
        """Return a warning if an array is constant."""
        present = item[~np.isnan(item)] if item.dtype.kind == "f" else item
        return ["constant throughout"] if (present == present.flat[0]).all() else []

    def preview(self, rows: Sequence[Any]) -> Image.Image:
        """Plot time series as curves and other arrays as images: one row per element of `rows`.

        Args:
            rows: batches `(B, C, *size)`, or lists of `(C, *size)`, in the model's range or levels.

        Raises:
            InputError: if the rows are empty or differ in length.
        """
        return array_figure([[self._shown(item) for item in row] for row in rows])

    def save(self, signal: Tensor | np.ndarray, path: str | Path) -> None:
        """Write one array as `.npy`, in the unit of the data and with the channel order of the data files.

        Args:
            signal: `(C, *size)` or `(1, C, *size)`, in the model's range or levels.
            path: path of the file.

        Raises:
            InputError: if the signal is not one array.
        """
        tensor = torch.as_tensor(signal)
        tensor = tensor[None] if tensor.ndim == self.spec.ndim + 1 else tensor
        if tensor.ndim != self.spec.ndim + 2 or len(tensor) != 1:
            raise InputError(
                f"expected one array (C, *size) of {self.spec.ndim} axes after the channels, received "
                f"{tuple(tensor.shape)}: save arrays one by one"
            )
        array = self.render(tensor)[0].numpy() if tensor.is_floating_point() else tensor[0].numpy()
        with Path(path).open("wb") as file:
            array = array if self.config.channels_first else np.moveaxis(array, 0, -1)
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)

    def _check_shape(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Check the shape and type of an array.

        Raises:
            UnreadableItem: if they differ from the settings.
        """
        config, spec = self.config, self.spec
        sides = tuple("T" if index == 0 and self.is_ragged else str(n) for index, n in enumerate(spec.size))
        channels = (str(config.channels),)
        expected = (*channels, *sides) if config.channels_first else (*sides, *channels)
        full = (config.channels, *shape) if config.channels == 1 and len(shape) == spec.ndim else shape
        if config.channels == 1 and len(shape) == spec.ndim and not config.channels_first:
            full = (*shape, config.channels)
        fits = len(full) == len(expected) and all(
            side > 0 if name == "T" else str(side) == name for name, side in zip(expected, full, strict=True)
        )
        if not fits:
            raise UnreadableItem(
                f"shape {shape}, expected ({', '.join(expected)}): set data.channels, data.size, data.length "
                "and data.channels_first to match the arrays"
            )
        if dtype.kind not in ("iub" if config.levels is not None else "iufb"):
            raise UnreadableItem(
                f"values of type {dtype}, expected "
                + ("integers: leave data.levels out" if config.levels is not None else "numbers")
            )

    def _levels(self, array: np.ndarray) -> np.ndarray:
        assert self.config.levels is not None
        shifted = array.astype(np.int64) - self.config.lowest
        if shifted.min() < 0 or shifted.max() >= self.config.levels:
            first = self.config.lowest
            raise UnreadableItem(
                f"values from {array.min()} to {array.max()}, expected {first} to "
                f"{first + self.config.levels - 1}: set data.lowest and data.levels"
            )
        return shifted.astype(self.domain.dtype)

    def _floats(self, array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # values too large for float32 are refused below
            values = np.array(array, dtype=np.float32, order="C")
        if np.isinf(values).any():
            raise UnreadableItem("values that are infinite, or too large for float32: rescale them")
        missing = np.isnan(values)
        if missing.all():
            raise UnreadableItem("all values are missing (NaN)")
        if missing.any() and self.config.missing == "refuse":
            raise UnreadableItem(
                f"{int(missing.sum())} of {missing.size} values are missing (NaN): fill them in, or exclude "
                "them from loss and score with data.missing=mask"
            )
        return values

    def _items(self, signal: Any) -> list[np.ndarray]:
        """Read the items that the user passed."""
        if isinstance(signal, list | tuple):
            if not signal:
                raise InputError("expected at least one array, received an empty list")
            return [item for one in signal for item in self._items(one)]
        if isinstance(signal, Tensor):
            signal = signal.detach().cpu().numpy()
        if isinstance(signal, np.ndarray) and signal.ndim == self.spec.ndim + 2:
            return [
                self._read(item if self.config.channels_first else np.moveaxis(item, 0, -1))
                for item in signal
            ]
        return [self._read(Path(signal) if isinstance(signal, str) else signal)]

    def _read(self, signal: Any) -> np.ndarray:
        try:
            return self.decode(signal)
        except UnreadableItem as error:
            name = str(signal) if isinstance(signal, Path) else "the input"
            raise InputError(f"{name} cannot be read as an array: {error}") from error

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and scale, broadcastable to `(B, C, *size)`; 0 and 1 if they are not set."""
        shape = (1, -1) + (1,) * (like.ndim - 2)
        mean = self.config.mean or (0.0,) * self.config.channels
        scale = self.config.scale or (1.0,) * self.config.channels
        made = [torch.tensor(values, dtype=torch.float32, device=like.device) for values in (mean, scale)]
        return made[0].view(shape), made[1].view(shape)

    def _shown(self, item: Tensor | np.ndarray) -> np.ndarray:
        """Convert one item `(C, *size)` to the unit of the data."""
        tensor = torch.as_tensor(item)
        return (self.render(tensor[None].cpu())[0] if tensor.is_floating_point() else tensor).numpy()
