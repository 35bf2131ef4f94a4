"""Judges: they learn to tell made sounds apart, and hear an utterance alike whatever it is heard with."""

import numpy as np
import pytest
import torch

from smalti.core.errors import InputError
from smalti.studies.speech.judges import Recognizer, _batch, train_recognizer

RATE_HZ = 8000


def tones(hz: float, num: int, seed: int = 0) -> list[np.ndarray]:
    """Noisy tones of 0.1 to 0.4 s, about as high."""
    rng = np.random.default_rng(seed)
    waves = []
    for _ in range(num):
        at = np.arange(rng.integers(800, 3200)) / RATE_HZ
        wave = rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * hz * rng.uniform(0.97, 1.03) * at)
        waves.append((wave + 0.01 * rng.standard_normal(len(at))).astype(np.float32))
    return waves


def labelled(num: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    waves = tones(400, num, seed) + tones(1600, num, seed + 1)
    return waves, np.repeat([0, 1], num)


def judge(steps: int = 25, is_content: bool = False, seed: int = 0) -> Recognizer:
    waves, labels = labelled(8)
    return train_recognizer(waves, labels, RATE_HZ, is_content, steps, batch_size=8, seed=seed)


@pytest.fixture(scope="module")
def trained() -> Recognizer:
    return judge()


def test_two_tones_are_distinguished(trained):
    waves, labels = labelled(10, seed=7)
    assert (trained.predict(waves) == labels).mean() == 1
    swapped = train_recognizer(*labelled(8)[:1], 1 - labelled(8)[1], RATE_HZ, False, 25, batch_size=8)
    assert (swapped.predict(waves) == 1 - labels).mean() == 1


def test_content_is_what_changes_in_time():
    """Rising and falling chirps have the same mean spectrum, which is all that is taken away."""
    rng = np.random.default_rng(0)

    def chirps(is_rising: bool) -> list[np.ndarray]:
        waves = []
        for _ in range(8):
            at = np.arange(2000) / RATE_HZ
            hz = np.linspace(500, 2000, 2000) * rng.uniform(0.95, 1.05)
            wave = 0.3 * np.sin(2 * np.pi * np.cumsum(hz if is_rising else hz[::-1]) / RATE_HZ)
            waves.append((wave + 0.01 * rng.standard_normal(len(at))).astype(np.float32))
        return waves

    waves, labels = chirps(True) + chirps(False), np.repeat([0, 1], 8)
    made = train_recognizer(waves, labels, RATE_HZ, True, 40, batch_size=8)
    assert made.shifts_bands
    assert (made.predict(chirps(True) + chirps(False)) == labels).mean() > 0.8


@pytest.mark.parametrize("is_content", [True, False])
def test_padding_does_not_change_what_is_heard(is_content):
    made = judge(3, is_content)
    waves, _ = labelled(4, seed=3)
    features = [made.features(wave) for wave in waves]
    with torch.no_grad():
        together = made(*_batch(features))
        alone = torch.cat([made(*_batch([one])) for one in features])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert alone.std(0).min() > 1e-3


@pytest.mark.parametrize("is_content", [True, False])
def test_loudness_is_not_heard(is_content):
    made = judge(1, is_content)
    (wave,) = tones(400, 1)
    one, other = made.features(0.5 * wave), made.features(0.125 * wave)
    torch.testing.assert_close(one, other, rtol=0, atol=0.02)


def test_the_seed_decides():
    waves, _ = labelled(2, seed=3)
    features = judge(1).features(waves[0])
    made = [judge(2, seed=seed) for seed in (1, 1, 2)]
    with torch.no_grad():
        first, same, other = (one(*_batch([features])) for one in made)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_sound_of_a_few_frames_is_heard_too(trained):
    assert trained.predict([tones(400, 1)[0][:200]]).shape == (1,)


def test_one_class():
    with pytest.raises(InputError, match="expected at least two classes"):
        train_recognizer(tones(400, 3), np.zeros(3, np.int64), RATE_HZ, False, 1)
