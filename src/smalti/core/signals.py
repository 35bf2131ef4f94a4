"""What a modality promises of its signals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class SignalSpec:
    """What a modality promises of its signals: `channels` and `levels` a channel, over `size` positions.

    `sample_rate_hz` is that of the sound, for waveforms and their spectrograms.
    """

    channels: int
    size: tuple[int, ...]
    levels: int = 256
    sample_rate_hz: int | None = None

    @property
    def ndim(self) -> int:
        """Number of spatial (or temporal) dimensions."""
        return len(self.size)

    @property
    def dims(self) -> int:
        """Number of scalar dimensions of one signal: the divisor of bits/dim."""
        return self.channels * math.prod(self.size)
