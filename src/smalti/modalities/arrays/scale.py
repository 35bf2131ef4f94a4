"""Streaming mean and standard deviation of each channel."""

from __future__ import annotations

from typing import final

import numpy as np


@final
class ChannelScale:
    """Accumulates mean and variance per channel, item by item (Chan et al. 1979).

    The result is accurate even if the mean is large compared with the deviation.

    Args:
        channels: number of channels C of every item.
    """

    def __init__(self, channels: int) -> None:
        self._count = np.zeros(channels)
        self._mean = np.zeros(channels)
        self._squares = np.zeros(channels)

    def add(self, item: np.ndarray) -> None:
        """Add an item `(C, *size)`, ignoring missing values (NaN)."""
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
        """Return the mean and the scale (standard deviation) of each channel; 1 for a constant channel."""
        scale = np.sqrt(self._squares / np.maximum(self._count, 1))
        # Rounding gives a constant channel a tiny deviation, which must not be amplified.
        is_constant = scale <= 1e-7 * np.maximum(np.abs(self._mean), 1e-30)
        return tuple(self._mean.tolist()), tuple(np.where(is_constant, 1.0, scale).tolist())
