"""Fundamental frequency (F0) by YIN (de Cheveigné & Kawahara 2002), and its agreement in two signals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64

from smalti.core.errors import InputError
from smalti.nn.pitch import SILENCE_DB, THRESHOLD, yin


def f0(
    waveform: Float[np.ndarray, " t"],
    sample_rate_hz: int,
    hop_seconds: float = 0.01,
    low_hz: float = 60.0,
    high_hz: float = 400.0,
) -> Float64[np.ndarray, " frames"]:
    """Estimate the fundamental frequency of each frame, Hz; NaN if unvoiced.

    Frame i is centred on (i + 0.5) * hop_seconds; only whole hops give a frame. Each frame compares two
    windows of 1 / low_hz seconds around its centre, and the waveform is padded with silence. A tone above
    `high_hz` is estimated an octave or more too low.

    Args:
        waveform: samples at any scale.
        sample_rate_hz: sample rate of the waveform.
        hop_seconds: time between frames.
        low_hz: lowest frequency of the search.
        high_hz: highest frequency of the search.

    Raises:
        InputError: when the frequencies are not in ascending order, or too high for the sample rate.
    """
    if not 0 < low_hz < high_hz <= sample_rate_hz / 4:
        raise InputError(
            f"expected frequencies 0 < low < high <= {sample_rate_hz / 4:g} Hz, a quarter of the sample "
            f"rate, received {low_hz:g} and {high_hz:g}"
        )
    num = int(len(waveform) / (hop_seconds * sample_rate_hz) + 1e-9)
    centres = np.rint((np.arange(num) + 0.5) * hop_seconds * sample_rate_hz).astype(np.int64)
    samples = torch.from_numpy(np.array(waveform, np.float64)).unsqueeze(0)
    return yin(samples, sample_rate_hz, torch.from_numpy(centres), low_hz, high_hz)[0].numpy()


def voiced_kept(
    originals: Sequence[Float[np.ndarray, " _"]], made: Sequence[Float[np.ndarray, " _"]], sample_rate_hz: int
) -> float:
    """Number of voiced frames of sounds, as a share of those of their originals; near 0 for whispers.

    Distances of F0 are measured in voiced frames alone, so this share belongs beside them.

    Args:
        originals: waveforms at any scale.
        made: as many waveforms.
        sample_rate_hz: sample rate of all.
    """
    given, kept = (
        sum(int(np.isfinite(f0(each, sample_rate_hz)).sum()) for each in sounds)
        for sounds in (originals, made)
    )
    return kept / max(1, given)


def f0_figures(
    reference: Float[np.ndarray, " frames"], other: Float[np.ndarray, " frames"]
) -> dict[str, float | None]:
    """Compare the F0 of two signals; `protocol` defines the figures.

    A figure is None if no frame counts, and the correlation also if F0 is constant.

    Args:
        reference: F0 of each frame, NaN where unvoiced.
        other: F0 of the other signal, with the same number of frames.
    """
    voiced = np.isfinite(reference), np.isfinite(other)
    both = voiced[0] & voiced[1]
    return {
        "log_f0_correlation": _correlation(np.log(reference[both]), np.log(other[both])),
        "voicing_agreement": float(np.mean(voiced[0] == voiced[1])) if len(reference) else None,
        "f0_ratio": float(np.median(other[both] / reference[both])) if both.any() else None,
        "voiced_in_both": float(np.mean(both)) if len(reference) else None,
    }


def protocol() -> dict[str, str]:
    """Return the definition of each figure of `f0_figures`."""
    return {
        "f0": f"YIN (de Cheveigné & Kawahara 2002), threshold {THRESHOLD}, frames every 10 ms, from 60 to "
        f"400 Hz by default; unvoiced above the threshold or {-SILENCE_DB:g} dB below the loudest frame",
        "log_f0_correlation": "Pearson correlation of ln F0 over the frames voiced in both",
        "voicing_agreement": "share of frames that are voiced in both or unvoiced in both",
        "f0_ratio": "median of signal F0 / reference F0 over the frames voiced in both",
        "voiced_in_both": "share of frames that are voiced in both",
    }


def _correlation(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float | None:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])
