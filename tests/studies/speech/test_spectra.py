"""The distance of spectra, against gains that are known and against the definition with torch.stft."""

import numpy as np
import pytest
import torch

from smalti.nn.spectral import mel_filters
from smalti.studies.speech.spectra import SCALES, mel_distance, protocol


def noise(seconds: float = 0.5, rate: int = 16000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * rate))


def by_hand(one: np.ndarray, other: np.ndarray, rate: int) -> float:
    distances = []
    for scale in SCALES:
        hop = round(scale.window_seconds * rate / 4)
        window = torch.hann_window(4 * hop, dtype=torch.float64)
        filters, _ = mel_filters(rate, 4 * hop, scale.num_mels)
        logs = []
        for signal in (one, other):
            # Frames are centred on the middle of their hop; those that reach beyond the ends are left out.
            spectra = torch.stft(
                torch.from_numpy(signal)[hop // 2 :], 4 * hop, hop, window=window, return_complex=True
            )
            mels = filters.double() @ (spectra.abs() / (window.sum() / 2))
            logs.append(mels[:, 4:-4].clamp_min(1e-5).log10())
        distances.append((logs[0] - logs[1]).abs().mean().item())
    return float(np.mean(distances))


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_against_the_definition(rate):
    # A tone, which the two scales see differently.
    one, tone = noise(3, rate), np.sin(2 * np.pi * 3000 * np.arange(3 * rate) / rate)
    other = noise(3, rate, seed=1) + tone
    assert mel_distance(one, other, rate) == pytest.approx(by_hand(one, other, rate), rel=0.03)


@pytest.mark.parametrize("gain", [10.0, 0.1, -0.5, 1.0])
def test_a_gain_is_its_logarithm(gain):
    x = noise()
    assert mel_distance(x, gain * x, 16000) == pytest.approx(abs(np.log10(abs(gain))), abs=1e-5)
    assert mel_distance(gain * x, x, 16000) == mel_distance(x, gain * x, 16000)


def test_what_is_below_the_floor_is_silence():
    silence = np.zeros(8000)
    assert mel_distance(silence, silence + 1e-7, 16000) == 0
    loud, soft = (mel_distance(silence, gain * noise(), 16000) for gain in (1.0, 0.1))
    assert loud - soft == pytest.approx(1, abs=1e-5)


def test_more_noise_is_farther():
    x = noise()
    distances = [mel_distance(x, x + level * noise(seed=1), 16000) for level in (0.01, 0.1, 1.0)]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 < distances[2]


def test_a_signal_may_be_shorter_than_a_window():
    assert mel_distance(np.ones(300), 0.1 * np.ones(300), 16000) > 0
    with pytest.raises(ValueError, match="at least 256 samples, received 255"):
        mel_distance(np.ones(255), np.ones(255), 16000)


def test_the_figure_has_its_protocol():
    assert "64 ms (80 channels) and 16 ms (40 channels)" in protocol()["mel_distance"]
