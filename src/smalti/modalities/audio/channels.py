"""Plausible sample rates and the mean of the channels, shared by every decoder of sounds."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from smalti.data.sources.base import UnreadableItem

RATES_HZ = (1_000, 1_000_000)
"""Accepted sample rates: a damaged header may state 1 Hz, and resampling would then exhaust memory."""


def check_rate(rate_hz: int) -> None:
    """Refuse an implausible sample rate.

    Raises:
        UnreadableItem: if it is not within `RATES_HZ`.
    """
    low, high = RATES_HZ
    if not low <= rate_hz <= high:
        raise UnreadableItem(f"its sample rate is {rate_hz} Hz, not within {low} to {high}")


def mono(samples: np.ndarray) -> Float32[np.ndarray, " t"]:
    """Average the channels of `(T,)` or `(T, C)` samples."""
    if samples.ndim == 2:
        samples = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float64)
    # Values out of float32's range become infinite, which is reported later.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(samples, dtype=np.float32)
