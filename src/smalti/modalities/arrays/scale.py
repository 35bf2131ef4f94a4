"""Mean and standard deviation of each channel, over items that are seen one by one."""

from __future__ import annotations

from typing import final

import numpy as np


@final
class ChannelScale:
    """Merges the moments of items, as Chan et al. (1979) do, so that a large mean costs no precision.

    Args:
        channels: of every item.
    """

    def __init__(self, channels: int) -> None:
        self._count = np.zeros(channels)
        self._mean = np.zeros(channels)
        self._squares = np.zeros(channels)

    def add(self, item: np.ndarray) -> None:
        """Add an item `(C, *size)`; missing values (NaN) do not count."""
        values = item.reshape(len(item), -1).astype(np.float64)
        present = ~np.isnan(values)
        count = present.sum(1)
        mean = np.where(present, values, 0).sum(1) / np.maximum(count, 1)
        squares = np.square(np.where(present, values - mean[:, None], 0)).sum(1)
        total = self._count + count
        change = mean - self._mean
        share = count / np.maximum(total, 1)
        self._squares += squares + np.square(change) * self._count * share
        self._mean += change * share
        self._count = total

    def compute(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and scale of each channel; a constant channel keeps the scale 1."""
        scale = np.sqrt(self._squares / np.maximum(self._count, 1))
        # Rounding must not be amplified: a constant channel has a tiny deviation, not none.
        is_constant = scale <= 1e-7 * np.maximum(np.abs(self._mean), 1e-30)
        return tuple(self._mean.tolist()), tuple(np.where(is_constant, 1.0, scale).tolist())
