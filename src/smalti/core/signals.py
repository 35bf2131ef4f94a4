"""What a signal is: its channels, its named axes, and the domain of its values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smalti.core.errors import InputError

TIME = "time"
"""The axis along which items may differ in length; always the first one."""

DEFAULT_AXES: dict[int, tuple[str, ...]] = {
    1: (TIME,),
    2: ("height", "width"),
    3: (TIME, "height", "width"),
}
"""Names of the axes of sounds, pictures and clips."""


@dataclass(frozen=True)
class Levels:
    """Integers 0 .. count - 1, which lie at 2k / (count - 1) - 1 in a model's range [-1, 1].

    A likelihood gives each level a probability, so scores are in bits/dim and can be realised by a code.
    """

    count: int = 256

    @property
    def dtype(self) -> np.dtype:
        """The smallest type for the levels that torch computes with: uint8, int16, int32 or int64."""
        kinds = (np.uint8, np.int16, np.int32, np.int64)
        return next(np.dtype(kind) for kind in kinds if self.count - 1 <= np.iinfo(kind).max)

    @property
    def unit(self) -> str:
        """Unit of scores."""
        return "bits"

    @property
    def nats_per_unit(self) -> float:
        """Nats in one unit of a score."""
        return math.log(2)


@dataclass(frozen=True)
class Continuous:
    """Real numbers, which a model sees standardised by channel: (x - mean) / scale.

    A likelihood is a density of the standardised values, so scores are in nats/dim and can be negative.

    Attributes:
        mean: of each channel, in the unit of the data; () until it is measured on the training split.
        scale: standard deviation of each channel, likewise.
    """

    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def dtype(self) -> np.dtype:
        """Type of stored values."""
        return np.dtype(np.float32)

    @property
    def unit(self) -> str:
        """Unit of scores."""
        return "nats"

    @property
    def nats_per_unit(self) -> float:
        """Nats in one unit of a score."""
        return 1.0


Domain = Levels | Continuous


@dataclass(frozen=True, init=False)
class SignalSpec:
    """What a modality promises of its signals `(C, *size)`.

    Attributes:
        channels: C.
        size: length of each axis after the channels; of the first one that of a training crop, where items
            differ in it.
        domain: exact levels, or continuous values.
        axes: name of each axis of `size`: "time", "depth", "height", "width" or another.
        sample_rate_hz: of the sound, for waveforms and their spectrograms.
    """

    channels: int
    size: tuple[int, ...]
    domain: Domain
    axes: tuple[str, ...]
    sample_rate_hz: int | None

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        levels: int | None = None,
        sample_rate_hz: int | None = None,
        *,
        domain: Domain | None = None,
        axes: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            channels: C.
            size: length of each axis.
            levels: short for `domain=Levels(levels)`; 256 where neither is given.
            sample_rate_hz: see above.
            domain: see above.
            axes: see above; None takes the names of `DEFAULT_AXES`.

        Raises:
            ValueError: for both levels and a domain, or not one name for each axis.
        """
        if levels is not None and domain is not None:
            raise ValueError(f"expected levels or a domain, received both: {levels} and {domain}")
        names = DEFAULT_AXES.get(len(size), ()) if axes is None else tuple(axes)
        if len(names) != len(size) or len(set(names)) != len(names):
            raise ValueError(f"expected a name for each of {len(size)} axes, received {names}: pass axes")
        fields = {
            "channels": channels,
            "size": tuple(size),
            "domain": domain or Levels(256 if levels is None else levels),
            "axes": names,
            "sample_rate_hz": sample_rate_hz,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values; the inverse of `from_json`."""
        domain = {"kind": type(self.domain).__name__, **asdict(self.domain)}
        return {**asdict(self), "domain": domain}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SignalSpec:
        """The spec that `to_json` described."""
        domain = dict(values["domain"])
        kind = {"Levels": Levels, "Continuous": Continuous}[domain.pop("kind")]
        lists = {name: tuple(value) if isinstance(value, list) else value for name, value in domain.items()}
        return cls(
            values["channels"],
            tuple(values["size"]),
            domain=kind(**lists),
            axes=tuple(values["axes"]),
            sample_rate_hz=values["sample_rate_hz"],
        )

    @property
    def ndim(self) -> int:
        """Number of axes after the channels."""
        return len(self.size)

    @property
    def dims(self) -> int:
        """Number of scalar dimensions of one signal: the divisor of bits/dim."""
        return self.channels * math.prod(self.size)

    @property
    def levels(self) -> int:
        """Number of exact levels of each channel.

        Raises:
            InputError: for a continuous domain, which has none.
        """
        if isinstance(self.domain, Continuous):
            raise InputError(
                "expected data of exact levels, received continuous data: take a density, "
                "model.likelihood.kind=normal, or state the range of integers by data.levels"
            )
        return self.domain.count

    @property
    def is_continuous(self) -> bool:
        """Whether scores are densities: nats/dim of standardised values, never bits/dim."""
        return isinstance(self.domain, Continuous)

    @property
    def has_time(self) -> bool:
        """Whether the first axis is time."""
        return self.axes[:1] == (TIME,)

    @property
    def is_clip(self) -> bool:
        """Whether a signal is a sequence of pictures: time, then two axes of space."""
        return self.has_time and self.ndim == 3

    @property
    def has_pictures(self) -> bool:
        """Whether the last two axes are the height and width of pictures."""
        return self.axes[-2:] == ("height", "width")
