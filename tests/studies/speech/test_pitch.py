"""The fundamental frequency of signals whose own is known, and the difference function by its definition."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smalti.core.errors import InputError
from smalti.nn import pitch
from smalti.nn.pitch import differences
from smalti.studies.speech.pitch import f0, f0_figures, protocol, voiced_kept

RATE = 16000


def harmonics(hz: float, numbers, seconds: float = 0.4, rate: int = RATE) -> np.ndarray:
    """Equal harmonics of a frequency, phases made up."""
    t = np.arange(int(seconds * rate)) / rate
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, 50)
    return 0.1 * sum(np.sin(2 * np.pi * hz * n * t + phases[n]) for n in numbers)


def inner(frames: np.ndarray) -> np.ndarray:
    """Those that see nothing but the signal."""
    return frames[3:-3]


AMBIGUOUS = [5, 7]
"""Alone, they nearly repeat after 5/12 of the period as well: each is a twelfth of its own off by then."""


def test_the_threshold_takes_a_period_that_is_nearly_one():
    """As YIN does, which takes the first dip below its threshold: a limit, said here so that it is known."""
    found = inner(f0(harmonics(120.0, AMBIGUOUS, rate=8000), 8000))
    np.testing.assert_allclose(found, 120 * 12 / 5, rtol=0.01)


@settings(max_examples=25)
@given(
    st.floats(62, 390),
    st.sampled_from([[1], [1, 2, 3], [2, 3, 4], [3, 4, 5], [5, 7, 8]]),
    st.sampled_from([8000, 16000, 22050, 44100]),
)
def test_tones_and_missing_fundamentals(hz, numbers, rate):
    # Periods are compared at whole samples, which at high harmonics are far apart.
    numbers = [n for n in numbers if n * hz < 0.12 * rate]
    assume(numbers != AMBIGUOUS)
    found = inner(f0(harmonics(hz, numbers if len(numbers) > 1 else [1], rate=rate), rate))
    np.testing.assert_allclose(found, hz, rtol=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gain", [1e-3, 1.0, 1e4])
def test_gain_and_offset_do_not_matter(gain, dtype):
    x = harmonics(120, [1, 2, 3])
    found = f0((gain * (x + 0.5)).astype(dtype), RATE)
    np.testing.assert_allclose(inner(found), 120, rtol=0.002)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_noise_is_unvoiced(rate):
    found = f0(np.random.default_rng(0).normal(size=2 * rate), rate)
    assert np.isnan(found).mean() > 0.99


def test_silence_is_unvoiced():
    assert np.isnan(f0(np.zeros(RATE), RATE)).all()
    assert np.isnan(f0(np.full(RATE - 1, 0.3), RATE)).all()
    # Also where only a part is silent, or as good as that.
    x = harmonics(150, [1, 2], seconds=1)
    x[: RATE // 2] *= 1e-3
    found = f0(x, RATE)
    assert np.isnan(found[:47]).all()
    np.testing.assert_allclose(inner(found[50:]), 150, rtol=0.002)


def test_half_noise_is_distinguished_from_a_tone_in_noise():
    noise = np.random.default_rng(0).normal(size=RATE)
    tone = harmonics(200, [1], seconds=1) * 10
    assert np.isfinite(inner(f0(tone + 0.1 * noise, RATE))).mean() > 0.95
    assert np.isfinite(inner(f0(tone + 1.0 * noise, RATE))).mean() < 0.05


def test_a_glide_is_followed_at_the_centres_of_the_frames():
    t = np.arange(RATE) / RATE
    x = np.sin(2 * np.pi * (100 * t + 50 * t**2))
    expected = 100 + 100 * (np.arange(100) + 0.5) / 100
    np.testing.assert_allclose(inner(f0(x, RATE)), inner(expected), rtol=0.01)


@pytest.mark.parametrize(
    ("samples", "hop_seconds", "rate", "frames"),
    [
        (16000, 0.01, 16000, 100),
        (15999, 0.01, 16000, 99),
        (22050, 0.01, 22050, 100),
        (16000, 0.04, 16000, 25),
        (159, 0.01, 16000, 0),
        (0, 0.01, 16000, 0),
    ],
)
def test_as_many_frames_as_fit(samples, hop_seconds, rate, frames):
    assert f0(np.ones(samples), rate, hop_seconds).shape == (frames,)


def test_blocks_of_frames_are_the_whole(monkeypatch):
    x = np.concatenate([harmonics(90, [1, 2]), harmonics(300, [1, 3]), np.zeros(2000)])
    whole = f0(x, RATE)
    monkeypatch.setattr(pitch, "FRAMES_AT_ONCE", 7)
    np.testing.assert_array_equal(f0(x, RATE), whole)


def test_differences_by_their_definition():
    frames = np.random.default_rng(0).normal(3, 1, (4, 30))
    expected = np.array([[((x[:20] - x[lag : 20 + lag]) ** 2).sum() for lag in range(10)] for x in frames])
    np.testing.assert_allclose(differences(torch.from_numpy(frames), 20).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(("low", "high"), [(0.0, 400.0), (400.0, 60.0), (60.0, 4001.0)])
def test_frequencies_that_are_refused(low, high):
    with pytest.raises(InputError, match="expected frequencies 0 < low < high <= 4000 Hz"):
        f0(np.zeros(1000), RATE, low_hz=low, high_hz=high)


class TestFigures:
    def test_by_hand(self):
        nan = np.nan
        reference = np.array([100.0, 110.0, 130.0, nan, nan, 90.0])
        other = np.array([200.0, 190.0, 280.0, nan, 210.0, nan])
        figures = f0_figures(reference, other)
        expected = np.corrcoef(np.log([100, 110, 130]), np.log([200, 190, 280]))[0, 1]
        assert figures == pytest.approx(
            {
                "log_f0_correlation": expected,
                "voicing_agreement": 4 / 6,
                "f0_ratio": 2.0,
                "voiced_in_both": 0.5,
            }
        )

    def test_a_transposed_melody_is_the_same_melody(self):
        reference = np.exp(np.random.default_rng(0).normal(5, 0.2, 40))
        figures = f0_figures(reference, 1.5 * reference)
        assert figures["log_f0_correlation"] == pytest.approx(1)
        assert figures["f0_ratio"] == pytest.approx(1.5)
        assert f0_figures(reference, 1 / reference)["log_f0_correlation"] == pytest.approx(-1)

    def test_where_there_is_nothing_to_tell(self):
        silence, monotone = np.full(4, np.nan), np.full(4, 100.0)
        assert f0_figures(monotone, silence) == {
            "log_f0_correlation": None,
            "voicing_agreement": 0.0,
            "f0_ratio": None,
            "voiced_in_both": 0.0,
        }
        assert f0_figures(monotone, monotone)["log_f0_correlation"] is None
        assert set(f0_figures(silence[:0], silence[:0]).values()) == {None}

    def test_every_figure_has_its_protocol(self):
        assert set(f0_figures(np.ones(3), np.ones(3))) | {"f0"} == set(protocol())


def test_voiced_frames_that_are_kept() -> None:
    """All of a tone's own, about half if half of it is noise, and none of noise."""
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 150 * np.arange(8000) / 8000)
    noise = 0.3 * rng.standard_normal(8000)
    half = np.concatenate([tone[:4000], noise[:4000]])
    assert voiced_kept([tone, tone], [tone, tone], 8000) == 1
    assert voiced_kept([tone], [half], 8000) == pytest.approx(0.5, abs=0.05)
    assert voiced_kept([tone], [noise], 8000) < 0.05
    assert voiced_kept([noise * 0], [noise * 0], 8000) == 0
