"""Spectral distance between two signals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from smalti.nn.spectral import FLOOR, LogMel


@dataclass(frozen=True)
class MelScale:
    """A resolution: windows of some length, every quarter of it, and channels."""

    window_seconds: float
    num_mels: int


SCALES = (MelScale(0.064, 80), MelScale(0.016, 40))
"""Fine in frequency, and fine in time."""


@torch.no_grad()
def mel_distance(
    reference: Float[np.ndarray, " t"], other: Float[np.ndarray, " t"], sample_rate_hz: int
) -> float:
    """Mean absolute difference of log10 mel magnitudes, over frames, channels and the two `SCALES`.

    1 is a factor of 10 in amplitude, 20 dB. It knows nothing of phases, and compares frame with frame: a
    shifted signal is far away.

    Args:
        reference: in [-1, 1].
        other: as long.
        sample_rate_hz: of both.

    Raises:
        ValueError: when the signals are shorter than a quarter of a window.
    """
    both = torch.from_numpy(np.stack([reference, other])).float().unsqueeze(1)
    distances = []
    for scale in SCALES:
        hop = round(scale.window_seconds / 4 * sample_rate_hz)
        if len(reference) < hop:
            raise ValueError(f"expected {hop} samples or more, received {len(reference)}")
        one, two = LogMel(sample_rate_hz, scale.num_mels, hop, 4 * hop)(both)
        distances.append((one - two).abs().double().mean().item() / math.log(10))
    return float(np.mean(distances))


def protocol() -> dict[str, str]:
    """Return the definition of the figure."""
    scales = " and ".join(f"{1000 * s.window_seconds:g} ms ({s.num_mels} channels)" for s in SCALES)
    return {
        "mel_distance": f"mean absolute difference of log10(max(mel magnitude, {FLOOR:g})), Slaney's mel "
        f"scale from 0 to half the sample rate, Hann windows of {scales}, every quarter window; mean over "
        "frames and channels, then over the two; 1 is 20 dB",
    }
