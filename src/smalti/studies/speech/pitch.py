"""Fundamental frequency (F0) by YIN (de Cheveigné & Kawahara 2002), and its agreement in two signals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from smalti.core.errors import InputError

THRESHOLD = 0.2
"""A frame is voiced if the normalised difference (equation 8), roughly the aperiodic share of its power, is
below this threshold. On read speech (CMU AN4), 0.2 marks 73 % of the frames of vowels, nasals and liquids and
2 % of those of voiceless consonants as voiced; 0.1 marks 60 % and 1 %."""

SILENCE_DB = -50.0
"""Power relative to the loudest frame at or below which a frame is unvoiced."""

FRAMES_AT_ONCE = 1024


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
    shortest, longest = math.floor(sample_rate_hz / high_hz), math.ceil(sample_rate_hz / low_hz)
    window = round(sample_rate_hz / low_hz)
    lags = longest + 2  # the dip search also reads the neighbours of the longest period
    reach = window + lags
    samples = np.asarray(waveform, np.float64)
    offset = samples.mean() if num else 0.0
    padded = np.pad(samples - offset, reach)
    centres = np.rint((np.arange(num) + 0.5) * hop_seconds * sample_rate_hz).astype(np.int64)
    frames = np.lib.stride_tricks.sliding_window_view(padded, reach)[centres + reach - reach // 2]
    result = np.full(num, np.nan)
    power = np.zeros(num)
    for begin in range(0, num, FRAMES_AT_ONCE):
        part = slice(begin, begin + FRAMES_AT_ONCE)
        power[part] = frames[part].var(1)
        differences = _differences(frames[part], window)
        result[part] = sample_rate_hz / _periods(differences, shortest, longest)
    # A constant waveform leaves only rounding errors, which may look periodic.
    floor = max(power.max(initial=0) * 10 ** (SILENCE_DB / 10), 1e-20 * offset**2)
    result[power <= floor] = np.nan
    return result


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


def _differences(frames: Float64[np.ndarray, "n w"], window: int) -> Float64[np.ndarray, "n lags"]:
    """Compute d(tau) = sum_j (x_j - x_{j+tau})^2 over the window (equation 6) for all lags within a frame.

    The square is expanded into two energies and a correlation, computed for all lags with the FFT.
    """
    frames = frames - frames.mean(1, keepdims=True)
    size = 2 ** math.ceil(math.log2(frames.shape[1] + window))
    spectra = np.fft.rfft(frames[:, :window], size).conj() * np.fft.rfft(frames, size)
    lags = frames.shape[1] - window
    correlation = np.fft.irfft(spectra, size)[:, :lags]
    sums = np.pad(np.square(frames).cumsum(1), ((0, 0), (1, 0)))
    energy = sums[:, window : window + lags] - sums[:, :lags]
    return (energy[:, :1] + energy - 2 * correlation).clip(0)


def _periods(
    differences: Float64[np.ndarray, "n lags"], shortest: int, longest: int
) -> Float64[np.ndarray, " n"]:
    """Find the period of each frame, samples: the first dip of d' below the threshold, or NaN.

    d'(tau) = d(tau) tau / sum_{j=1..tau} d(j) (equation 8); the dip is refined by a parabola through d.
    """
    lags = np.arange(differences.shape[1])
    sums = differences.cumsum(1)
    # Where the signal is constant up to a lag, d' is 1: no evidence of a period.
    normalised = np.divide(differences * lags, sums, out=np.ones_like(differences), where=sums > 0)
    candidates = slice(max(shortest, 2), longest + 1)
    here = normalised[:, candidates]
    before, after = (normalised[:, candidates.start + step : candidates.stop + step] for step in (-1, 1))
    deep = (here < THRESHOLD) & (here <= before) & (here < after)
    lag = deep.argmax(1) + candidates.start
    rows = np.arange(len(differences))
    left, dip, right = (differences[rows, lag + step] for step in (-1, 0, 1))
    curvature = left - 2 * dip + right
    shift = np.divide(left - right, 2 * curvature, out=np.zeros_like(dip), where=curvature > 0)
    return np.where(deep.any(1), lag + shift.clip(-1, 1), np.nan)


def _correlation(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float | None:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])
