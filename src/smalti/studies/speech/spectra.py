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
    """Resolution of a mel spectrogram; the hop is a quarter of the window."""

    window_seconds: float
    num_mels: int


SCALES = (MelScale(0.064, 80), MelScale(0.016, 40))
"""One scale with fine frequency resolution, one with fine time resolution."""


@torch.no_grad()
def mel_distance(
    reference: Float[np.ndarray, " t"], other: Float[np.ndarray, " t"], sample_rate_hz: int
) -> float:
    """Mean absolute difference of log10 mel magnitudes over frames, channels and the two `SCALES`.

    A distance of 1 is a factor of 10 in amplitude, or 20 dB. Phases are ignored; frames are compared at equal
    times, so a shifted signal has a large distance.

    Args:
        reference: waveform in [-1, 1].
        other: waveform in [-1, 1] of the same length.
        sample_rate_hz: sample rate of both.

    Raises:
        ValueError: when the signals are shorter than a quarter of a window.
    """
    both = torch.from_numpy(np.stack([reference, other])).float().unsqueeze(1)
    distances = []
    for scale in SCALES:
        hop = round(scale.window_seconds / 4 * sample_rate_hz)
        if len(reference) < hop:
            raise ValueError(f"expected at least {hop} samples, received {len(reference)}")
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
