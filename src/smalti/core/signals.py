"""Specification of a signal: its channels, its named axes, and the domain of its values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smalti.core.errors import InputError

TIME = "time"
"""Name of the axis along which items may differ in length; always the first axis after the channels."""

DEFAULT_AXES: dict[int, tuple[str, ...]] = {
    1: (TIME,),
    2: ("height", "width"),
    3: (TIME, "height", "width"),
}
"""Default axis names by number of axes: audio, images, clips."""


def _is_count(number: object) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool) and int(number) >= 1


def _numbers(name: str, values: Iterable[float]) -> tuple[float, ...]:
    """The values as finite floats.

    Raises:
        InputError: for anything else.
    """
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not all(math.isfinite(number) for number in numbers):
        raise InputError(
            f"expected a finite {name} for each channel, received {values!r}: pass a tuple of numbers"
        )
    return numbers


@dataclass(frozen=True)
class Levels:
    """Integer levels 0 .. count - 1; level k is 2k / (count - 1) - 1 in a model's range [-1, 1].

    A likelihood assigns a probability to each level, so scores are in bits/dim and an entropy coder can
    achieve them.

    Attributes:
        count: number of levels.
    """

    count: int = 256

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: for fewer than two levels.
        """
        if not _is_count(self.count) or self.count < 2:
            raise InputError(
                f"expected at least 2 levels, received {self.count!r}: pass the number of values that a "
                "channel can have, 256 for 8-bit data"
            )

    @property
    def dtype(self) -> np.dtype:
        """Smallest of uint8, int16, int32 and int64 that holds the levels."""
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
    """Real values; a model sees them standardised per channel: (x - mean) / scale.

    A likelihood is a density of the standardised values, so scores are in nats/dim and can be negative.

    Attributes:
        mean: mean of each channel, in the unit of the data; () until it is measured on the training split.
        scale: standard deviation of each channel, in the same unit; () until it is measured.
    """

    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: if there is not one scale for each mean, or a value is not a finite number, or a scale
                is not positive.
        """
        for name in ("mean", "scale"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if len(self.mean) != len(self.scale):
            raise InputError(
                f"expected a mean and a scale for each channel, received {len(self.mean)} and "
                f"{len(self.scale)}: pass equally many, or neither"
            )
        if any(scale <= 0 for scale in self.scale):
            raise InputError(
                f"expected scales above 0, received {self.scale}: pass the standard deviation of each "
                "channel, 1 for a channel that is constant"
            )

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
    """Shape, axes and domain of a modality's signals `(C, *size)`.

    Attributes:
        channels: number of channels C.
        size: length of each axis after the channels; if items differ in length, the first entry is the length
            of a training crop.
        domain: exact levels, or continuous values.
        axes: name of each axis of `size`, such as "time", "depth", "height" or "width".
        sample_rate_hz: sample rate of the audio, for waveforms and their spectrograms; None otherwise.
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
            channels: number of channels C.
            size: length of each axis after the channels.
            levels: short for `domain=Levels(levels)`; without `domain`, the default is 256 levels.
            sample_rate_hz: see above.
            domain: see above.
            axes: see above; None selects the names in `DEFAULT_AXES`.

        Raises:
            InputError: for channels or sides below 1, both levels and a domain, a domain of another number of
                channels, or not one name for each axis.
        """
        if levels is not None and domain is not None:
            raise InputError(
                f"expected levels or a domain, received both, {levels} and {domain}: leave one of them out"
            )
        sides = tuple(size) if isinstance(size, Iterable) else ()
        if not sides or not all(_is_count(number) for number in (channels, *sides)):
            raise InputError(
                f"expected a number of channels and the length of each axis, all integers of at least 1, "
                f"received {channels!r} and {size!r}: pass for example SignalSpec(3, (32, 32))"
            )
        if isinstance(domain, Continuous) and len(domain.mean) not in (0, channels):
            raise InputError(
                f"expected a mean and a scale for each of {channels} channels, received {len(domain.mean)}: "
                "pass one of each for every channel, or neither"
            )
        names = DEFAULT_AXES.get(len(sides), ()) if axes is None else tuple(axes)
        if len(names) != len(sides) or len(set(names)) != len(names):
            raise InputError(
                f"expected a name for each of {len(sides)} axes, received {names}: pass axes, such as "
                '("depth", "height", "width")'
            )
        fields = {
            "channels": int(channels),
            "size": tuple(int(side) for side in sides),
            "domain": domain or Levels(256 if levels is None else levels),
            "axes": names,
            "sample_rate_hz": sample_rate_hz,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain JSON values; the inverse of `from_json`."""
        domain = {"kind": type(self.domain).__name__, **asdict(self.domain)}
        return {**asdict(self), "domain": domain}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SignalSpec:
        """Create a spec from the values that `to_json` returns."""
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
        """Number of scalar values of one signal: the divisor of bits/dim."""
        return self.channels * math.prod(self.size)

    @property
    def levels(self) -> int:
        """Number of levels.

        Raises:
            InputError: if the domain is continuous.
        """
        if isinstance(self.domain, Continuous):
            raise InputError(
                "expected data with exact levels, received continuous data: use a density, "
                "model.likelihood.kind=normal, or, for integer data, set data.levels"
            )
        return self.domain.count

    @property
    def is_continuous(self) -> bool:
        """True if the domain is continuous, so that scores are in nats/dim rather than bits/dim."""
        return isinstance(self.domain, Continuous)

    @property
    def has_time(self) -> bool:
        """True if the first axis is time."""
        return self.axes[:1] == (TIME,)

    @property
    def is_clip(self) -> bool:
        """True if a signal is a clip: time, then two spatial axes."""
        return self.has_time and self.ndim == 3

    @property
    def has_pictures(self) -> bool:
        """True if the last two axes are height and width."""
        return self.axes[-2:] == ("height", "width")
