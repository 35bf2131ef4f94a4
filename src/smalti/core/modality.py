"""The abstract class of a modality: how signals are read, scaled, shown and written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from smalti.core.config import Configuration
from smalti.core.registry import Registry
from smalti.core.signals import SignalSpec

if TYPE_CHECKING:
    from PIL import Image


class Modality(ABC):
    """What a signal is: how it is read from a file, its range, how it is shown and written.

    Stored items `(C, *size)` are levels, integers that a model sees in [-1, 1]; or floats of a continuous
    domain, which a model sees standardised. Where `is_ragged`, items differ in their first axis after the
    channels (time), and `spec.size` is that of the crops that training takes.
    """

    extensions: tuple[str, ...]
    """Endings of the files that it can read, such as ".png"."""
    ending: str
    """Of the files that `save` writes."""
    noun: str
    """What its items are called in messages, in the plural: "pictures"."""
    is_ragged: bool = False
    readers: int | None = None
    """Threads that decode items side by side, or None for one a core. With 1, for items that are large and
    decoded by several threads themselves, one item at a time is in memory."""
    sample_rate_hz: int | None = None
    """Of the waveforms that `render` gives, where it gives waveforms."""
    padding: int | float = 0
    """The level, or stored value, that follows an item that is shorter than a crop."""
    pattern: str | None = None
    """A regular expression over file names that a user gave, with a group `speaker` or `label`."""

    @property
    def stored_shape(self) -> tuple[int | None, ...]:
        """Shape of an item; None as the side after the channels where items differ in it."""
        spec = self.spec
        return (spec.channels, None if self.is_ragged else spec.size[0], *spec.size[1:])

    @property
    @abstractmethod
    def spec(self) -> SignalSpec:
        """Channels, axes, size and domain of a training signal."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """All that a figure measured on these signals depends on, as plain JSON values."""

    @abstractmethod
    def decode(self, content: Any) -> np.ndarray:
        """The stored values of one item, `(C, *size)`, from a file, its bytes, or an array.

        Raises:
            UnreadableItem: with the reason, when there is no such signal in it.
        """

    @abstractmethod
    def to_model(self, levels: Tensor) -> Float[Tensor, "b c *size"]:
        """Stored levels to [-1, 1], or stored values of a continuous domain to standardised ones."""

    def mask(self, stored: Tensor) -> Bool[Tensor, "b c *size"] | None:
        """Which stored values are present; None where values cannot be missing."""
        return None

    @abstractmethod
    def to_stored(self, signal: Float[Tensor, "b c *size"]) -> Tensor:
        """The inverse of `to_model`: [-1, 1] to the nearest level, clipped; or values in the data's unit."""

    @abstractmethod
    def check(self, signal: Any) -> Any:
        """What a user passes, in the range of a model: `(B, C, *size)`, or of ragged items a list of such.

        Raises:
            InputError: for another type, range or shape.
        """

    def warnings(self, item: np.ndarray) -> list[str]:
        """What a user should know of an item that was read, in words: that it is silent, say."""
        return []

    def seconds(self, length: int) -> float | None:
        """How long an item of this length (in time) lasts, or None where it does not last."""
        return None

    def render(self, signal: Float[Tensor, "b c *size"]) -> Tensor:
        """A model's signal as a user wants it: levels, unless the modality has something better."""
        return self.to_stored(signal)

    @abstractmethod
    def preview(self, rows: Sequence[Any]) -> Image.Image:
        """A picture of signals: each of `rows[0]` with those of the other rows under it.

        Args:
            rows: batches `(B, C, *size)`, or lists of `(C, *size)`, levels or floats in [-1, 1].
        """

    @abstractmethod
    def save(self, signal: Tensor | np.ndarray, path: str | Path) -> None:
        """Write one signal, `(C, *size)` or `(1, C, *size)`, levels or floats in [-1, 1], as a file."""


class ModalityConfig(Configuration):
    """How signals of one kind are read."""

    def build(self) -> Modality:
        """The modality.

        Raises:
            InputError: for settings that do not fit each other.
        """
        raise NotImplementedError

    def measured(self, items: Iterable[np.ndarray]) -> ModalityConfig:
        """The settings with what has to be measured on the training items, such as mean and scale.

        Args:
            items: stored items, `(C, *size)`.
        """
        del items
        return self


MODALITIES = Registry("modality", ModalityConfig, "smalti.modalities")
AnyModality = Annotated[ModalityConfig, MODALITIES]
