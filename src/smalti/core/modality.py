"""Abstract class of a modality: how signals are read, scaled, displayed and written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field
from torch import Tensor

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.registry import Registry
from smalti.core.signals import SignalSpec
from smalti.core.streaming import SignalStream

if TYPE_CHECKING:
    from PIL import Image


M = TypeVar("M", bound="ModalityConfig")


class Modality(ABC):
    """A type of signal: its file formats, its range, and how to display and write it.

    Stored items `(C, *size)` are integer levels, which models see scaled to [-1, 1], or floats of a
    continuous domain, which models see standardised. If `is_ragged`, items differ in length along the first
    axes after the channels, and `spec.size` is the size of training crops.
    """

    extensions: tuple[str, ...]
    """Extensions of the files that it can read, such as ".png"."""
    ending: str
    """Extension of the files that `save` writes."""
    plural_name: str
    """Plural name of its items in messages, such as "pictures"."""
    is_ragged: bool = False
    """True if items differ in length along the axes that `stored_shape` leaves open: time, for sounds and
    clips, and height and width in a `native` modality."""
    readers: int | None = None
    """Number of decoding threads; None for one per core. 1 keeps only one decoded item in memory, for large
    items whose decoder uses several threads itself."""
    sample_rate_hz: int | None = None
    """Sample rate of the waveforms that `render` returns; None if it does not return waveforms."""
    padding: int | float = 0
    """Level, or stored value, that pads items shorter than a crop."""
    pattern: str | None = None
    """Regular expression for file names, given by the user, with a group `speaker` or `label`."""

    @property
    def stored_shape(self) -> tuple[int | None, ...]:
        """Shape of a stored item; None for the sides in which items differ, which come first."""
        spec = self.spec
        return (spec.channels, None if self.is_ragged else spec.size[0], *spec.size[1:])

    @property
    def portion(self) -> str | None:
        """Says what is read of items, for reports; None if it is all of them."""
        return None

    def for_training(self) -> Modality:
        """Return the modality of the items of which training uses crops, by default this one.

        Its items may be larger than `spec.size`, along the first axes; their middle is what this modality
        decodes.
        """
        return self

    def native(self) -> Modality:
        """Return the modality of items of any height and width, as the files have them.

        Raises:
            InputError: if there is none, as by default.
        """
        raise InputError(
            f"expected pictures or clips for their native height and width, received a model of "
            f"{self.plural_name}: leave out the size"
        )

    @property
    @abstractmethod
    def spec(self) -> SignalSpec:
        """Channels, axes, size and domain of a training signal."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Return everything that measurements on these signals depend on, as plain JSON values."""

    @abstractmethod
    def decode(self, content: Any) -> np.ndarray:
        """Decode a file, its bytes, or an array to the stored values of one item, `(C, *size)`.

        Raises:
            UnreadableItem: if the content is not a signal of this modality; it contains the reason.
        """

    @abstractmethod
    def to_model(self, levels: Tensor) -> Float[Tensor, "b c *size"]:
        """Convert stored levels to [-1, 1], or stored continuous values to standardised ones."""

    def augment(
        self, stored: Shaped[Tensor, "b c *size"], draws: Float[Tensor, " b"]
    ) -> Shaped[Tensor, "b c *size"]:
        """Change stored items at random for training; unchanged unless the modality overrides it.

        Only batches of one size are augmented, so this is not called if `is_ragged`.

        Args:
            stored: items of a training batch.
            draws: a number in [0, 1) for each item, uniform over items and steps.
        """
        del draws
        return stored

    @property
    def num_views(self) -> int:
        """Number of variants of an item whose codes a prior learns, the item itself included."""
        return 1

    def view(self, stored: Shaped[np.ndarray, "*item"], number: int) -> Shaped[np.ndarray, "*item"]:
        """Return a variant of a stored item, from 0, the item itself, to `num_views` - 1.

        A modality that overrides `augment` should override this and `num_views`, so that priors learn the
        codes of what the autoencoder is trained on.
        """
        del number
        return stored

    def mask(self, stored: Tensor) -> Bool[Tensor, "b c *size"] | None:
        """Return a mask that is False at missing values; None if values cannot be missing."""
        return None

    @abstractmethod
    def to_stored(self, signal: Float[Tensor, "b c *size"]) -> Tensor:
        """Invert `to_model`: convert to the nearest levels, clipped, or to values in the data's unit."""

    @abstractmethod
    def check(self, signal: Any) -> Any:
        """Validate signals from a user and convert them to the range of a model.

        Returns:
            `(B, C, *size)`, or a list of `(1, C, *size)` if `is_ragged`.

        Raises:
            InputError: if the type, range or shape is wrong.
        """

    def stream(self) -> SignalStream:
        """Return a converter of the blocks of one signal.

        Raises:
            InputError: if the conversion depends on the whole signal, as by default.
        """
        raise InputError(
            f"expected {self.plural_name} whose conversion does not depend on the whole, received "
            f"{type(self).__name__}: pass whole signals to encode"
        )

    def blocks(self, content: Any) -> Iterator[Any] | None:
        """Decode a long item to blocks for `stream`, in bounded memory; by default None, for no such item.

        Args:
            content: as for `decode`.

        Raises:
            UnreadableItem: as `decode`; the iterator raises it, too.
        """
        del content
        return None

    def warnings(self, item: np.ndarray) -> list[str]:
        """Return warnings about a decoded item, such as "silent throughout"."""
        return []

    def lossless(self, items: Iterable[np.ndarray]) -> dict[str, float]:
        """Return bits/dim of stored items in common lossless formats, by name; {} if there are none."""
        del items
        return {}

    def seconds(self, length: int) -> float | None:
        """Duration in seconds of an item of this length; None if items have no duration."""
        return None

    def render(self, signal: Float[Tensor, "b c *size"]) -> Tensor:
        """Convert a model's signal to the format for users: levels, unless the modality overrides it."""
        return self.to_stored(signal)

    @abstractmethod
    def preview(self, rows: Sequence[Any]) -> Image.Image:
        """Draw signals as one image: each item of `rows[0]` above the same item of the other rows.

        Args:
            rows: batches `(B, C, *size)`, or lists of `(C, *size)`, levels or floats in [-1, 1].
        """

    @abstractmethod
    def save(self, signal: Tensor | np.ndarray, path: str | Path) -> None:
        """Write one signal to a file.

        Args:
            signal: `(C, *size)` or `(1, C, *size)`, levels or floats in [-1, 1].
            path: path of the file.
        """

    def save_blocks(self, blocks: Iterable[Float[Tensor, "1 c _ *size"]], path: str | Path) -> None:
        """Write one signal to the file that `save` writes, given block by block along its first axis.

        A modality whose files can be written in bounded memory overrides it; by default, blocks are joined.

        Args:
            blocks: in the model's range; at least one.
            path: path of the file.
        """
        self.save(torch.cat(list(blocks), 2), path)


class ModalityConfig(Configuration):
    """Settings of a modality.

    Attributes:
        stream: train on items that are decoded as they are needed, rather than on a decoded copy on the disk.
        stream_buffer: number of items that a stream holds decoded, and shuffles together; twice as many are
            in memory.
        stream_crops: number of crops of a stream's item in an epoch, on average: more for long recordings,
            which are decoded as a whole for each epoch.
    """

    stream: bool = False
    stream_buffer: int = Field(default=4096, ge=1)
    stream_crops: int = Field(default=1, ge=1)

    measured_fields: ClassVar[tuple[str, ...]] = ()
    """Names of the settings that `surveyed` and `measured` fill; each is "not given" while it has its
    default."""
    signal_fields: ClassVar[tuple[str, ...]] = ()
    """Names of the settings by which values become a model's signals: with others, the same values have
    other codes."""

    @abstractmethod
    def build(self) -> Modality:
        """Build the modality.

        Raises:
            InputError: if the settings contradict each other.
        """

    def measured(self, items: Iterable[np.ndarray]) -> ModalityConfig:
        """Return the settings with values measured on the training items, such as mean and scale.

        Only the settings named in `measured_fields` change, and only those that are not given.

        Args:
            items: stored items, `(C, *size)`.
        """
        del items
        return self

    def surveyed(self: M, contents: Iterable[Any]) -> tuple[M, list[str]]:
        """Return the settings with choices that depend on the training files, and notes for the user on them.

        It is called before any file is decoded, for a new run only. Only the settings named in
        `measured_fields` change, and only those that are not given.

        Args:
            contents: files, their bytes, or arrays, as `decode` takes them.
        """
        del contents
        return self, []

    def resumed(self: M, stored: ModalityConfig) -> M:
        """Return the settings with the measured ones that are not given taken from the run to resume.

        Args:
            stored: settings of that run.
        """
        if type(stored) is not type(self):
            return self
        fields = type(self).model_fields
        return self.model_copy(
            update={
                name: getattr(stored, name)
                for name in self.measured_fields
                if getattr(self, name) == fields[name].get_default(call_default_factory=True)
            }
        )


MODALITIES = Registry("modality", ModalityConfig, "smalti.modalities")
AnyModality = Annotated[ModalityConfig, MODALITIES]
