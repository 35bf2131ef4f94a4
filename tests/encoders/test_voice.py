"""Voices: frequency axes that are moved the right way, means and deviations of speech, cepstra by hand."""

import math

import numpy as np
import pytest
import torch

from smalti.core.signals import SignalSpec
from smalti.encoders.voice import (
    FACTORS,
    VoiceConfig,
    VoiceFinder,
    is_speech,
    speech_positions,
    warped,
)

NUM_MELS = 40
MELS = np.arange(1, NUM_MELS + 1) / (NUM_MELS + 1) * math.log10(1 + 8000 / 700)
HZ = 700 * (10**MELS - 1)


def finder(stride: int = 4, num_mels: int = NUM_MELS, **settings) -> VoiceFinder:
    return VoiceFinder(VoiceConfig.tiny().model_copy(update=settings), SignalSpec(num_mels, (64,)), stride)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestWarp:
    def test_a_factor_of_one_changes_nothing(self):
        """But for a thousandth of the last band."""
        frames = noise(3, NUM_MELS, 5)
        same = warped(frames, torch.ones(3))
        torch.testing.assert_close(same[:, :-1], frames[:, :-1], rtol=0, atol=1e-3)
        torch.testing.assert_close(same[:, -1], frames[:, -1], rtol=0, atol=1e-2)

    @pytest.mark.parametrize("factor", [0.84, 0.92, 1.08, 1.16])
    @pytest.mark.parametrize("band", [8, 15, 24])
    def test_a_peak_goes_to_its_frequency_over_the_factor(self, band, factor):
        peak = torch.exp(-0.5 * ((torch.arange(NUM_MELS) - band) / 1.5) ** 2).view(1, -1, 1)
        moved = warped(peak, torch.tensor([factor]))[0, :, 0]
        expected = np.abs(HZ - HZ[band] / factor).argmin()
        assert abs(int(moved.argmax()) - expected) <= 1
        assert (int(moved.argmax()) < band) == (factor > 1)

    def test_a_range_that_ends_elsewhere(self):
        """At a sample rate of 8 kHz the bands lie closer, and a factor moves over more of them."""
        bands = torch.arange(NUM_MELS)
        peak = torch.exp(-0.5 * ((bands - 20) / 1.5) ** 2).view(1, -1, 1)
        mels = np.arange(1, NUM_MELS + 1) / (NUM_MELS + 1) * math.log10(1 + 4000 / 700)
        hz = 700 * (10**mels - 1)
        top_hz = VoiceFinder(VoiceConfig.tiny(), SignalSpec(4, (64,), sample_rate_hz=8000), 4).top_hz
        moved, by_default = (warped(peak, torch.tensor([0.84]), *end)[0, :, 0] for end in ((top_hz,), ()))
        assert abs(int(moved.argmax()) - np.abs(hz - hz[20] / 0.84).argmin()) <= 1
        place, place_by_default = ((x * bands).sum() / x.sum() for x in (moved, by_default))
        assert place > place_by_default + 0.3

    def test_each_item_has_a_factor_of_its_own(self):
        frames = noise(1, NUM_MELS, 5).expand(3, -1, -1)
        factors = torch.tensor([0.9, 1.0, 1.1])
        together = warped(frames, factors)
        for item, factor in zip(together, factors, strict=True):
            torch.testing.assert_close(item, warped(frames[:1], factor[None])[0])

    @pytest.mark.parametrize("factor", [0.84, 1.16])
    def test_the_ends_of_the_range_stay(self, factor):
        ramp = torch.arange(NUM_MELS).float().view(1, -1, 1)
        moved = warped(ramp, torch.tensor([factor]))[0, :, 0]
        assert (moved.diff() > 0).all()
        assert moved[-1] == pytest.approx(NUM_MELS - 1, abs=0.01)
        assert 0 <= moved[0] < 2


class TestSpeech:
    def test_loud_frames_are_speech_and_silence_has_none(self):
        signal = torch.full((2, 3, 40), -1.0)
        signal[0, :, 8:20] = 0.5
        assert is_speech(signal)[0].nonzero().flatten().tolist() == list(range(8, 20))
        assert not is_speech(signal)[1].any()
        assert speech_positions(signal, 4)[0].nonzero().flatten().tolist() == [2, 3, 4]

    def test_half_a_place_is_not_most_of_it(self):
        signal = torch.full((1, 3, 40), -1.0)
        signal[0, :, 10:23] = 0.5  # two frames of place 2, all of 3 and 4, three of place 5
        assert speech_positions(signal, 4)[0].nonzero().flatten().tolist() == [3, 4, 5]


class TestVoice:
    def test_mean_and_deviation_are_those_of_all_speech_of_a_speaker(self):
        utterances = [torch.full((3, 20), -1.0), torch.full((3, 30), -1.0)]
        utterances[0][:, 4:14], utterances[1][:, 6:26] = noise(3, 10) * 0.1, 0.5 + noise(3, 20) * 0.1
        voice = finder(num_mels=3).voice(utterances)
        speech = torch.cat([utterances[0][:, 4:14], utterances[1][:, 6:26]], 1)
        assert voice[0] == 1
        torch.testing.assert_close(voice[1:4], speech.mean(1))
        torch.testing.assert_close(voice[4:], speech.std(1, correction=0))
        signal = utterances[1].unsqueeze(0)
        clean = finder(num_mels=3).normalised(signal, voice[None])
        expected = (utterances[1] - speech.mean(1, keepdim=True)) / speech.std(1, correction=0, keepdim=True)
        torch.testing.assert_close(clean[0, :2], expected[:2], rtol=1e-3, atol=2e-2)

    def test_silence_has_a_voice_too(self):
        voice = finder().voice([torch.full((NUM_MELS, 12), -1.0)])
        assert voice.isfinite().all()
        assert (voice[1 + NUM_MELS :] > 0).all()

    def test_before_anything_is_learned_nothing_is_moved(self):
        assert finder().voices(noise(3, NUM_MELS, 20))[:, 0].tolist() == [1, 1, 1]

    @pytest.mark.parametrize("scale", [0.84, 0.92, 1.0, 1.08, 1.16])
    def test_how_much_higher_a_new_speakers_formants_are_is_found(self, scale):
        made = finder(cepstra=13, num_clusters=24)
        known = made.fit({name: [vowels(1.0, name), vowels(1.0, 9 + name)] for name in range(3)})
        assert made.is_fitted
        assert [voice[0].item() for voice in known.values()] == [1, 1, 1]
        (found,) = made.voices(vowels(scale, 5).unsqueeze(0))[:, 0].tolist()
        step = FACTORS[1] - FACTORS[0]
        assert abs(found - scale) < 1.01 * step
        assert (found > 1) == (scale > 1)

    def test_the_same_seed_learns_the_same(self):
        speakers = {0: [vowels(1.0, 0)], 1: [vowels(1.1, 1)]}
        made = [finder(num_clusters=5) for _ in range(3)]
        voices = [one.fit(speakers, seed) for one, seed in zip(made, (1, 1, 2), strict=True)]
        assert torch.equal(made[0].reference, made[1].reference)
        assert not torch.equal(made[0].reference, made[2].reference)
        assert all(torch.equal(voices[0][name], voices[1][name]) for name in speakers)


def vowels(scale: float, seed: int) -> torch.Tensor:
    """Silence, then 12 vowels of two formants each, 8 frames long, `(M, T)`, in [-1, 1]."""
    rng = np.random.default_rng(100)  # the same for all: what is said
    bands = np.full((NUM_MELS, 8), -1.0)
    parts = [bands]
    for _ in range(12):
        formants = rng.uniform(300, 900), rng.uniform(1000, 2600)
        shape = sum(np.exp(-0.5 * ((HZ - scale * f) / (0.12 * f)) ** 2) for f in formants)
        parts.append(np.repeat((0.8 * shape - 0.6)[:, None], 8, 1))
    clean = np.concatenate(parts, 1)
    clean += np.random.default_rng(seed).normal(size=clean.shape) * 0.02
    return torch.from_numpy(clean.astype(np.float32))


class TestCepstra:
    def test_differences_of_a_ramp_are_its_slope(self):
        """The zeroth coefficient is sqrt(2 / M) times the sum over bands."""
        made = finder(stride=1, window=1, cepstra=3, num_mels=4)
        ramp = (0.5 * torch.arange(20.0)).expand(1, 4, 20)
        cepstra = made.cepstra(ramp)[0]
        assert cepstra.shape == (20, 6)
        torch.testing.assert_close(cepstra[:, 0], 0.5 * torch.arange(20.0) * 4 * math.sqrt(0.5))
        torch.testing.assert_close(cepstra[2:-2, 3], torch.full((16,), 0.5 * 4 * math.sqrt(0.5)))
        torch.testing.assert_close(cepstra[:, 1:3], torch.zeros(20, 2), rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("stride", "window"), [(4, 8), (2, 5), (4, 4), (3, 1), (1, 6)])
    def test_a_window_around_every_place(self, stride, window):
        made = finder(stride, window=window)
        frames = noise(2, NUM_MELS, 6 * stride)
        cepstra = made.cepstra(frames)
        assert cepstra.shape == (2, 6, 2 * made.config.cepstra * window)
        assert cepstra.shape[2] == made.reference.shape[1]
        one = finder(1, window=1)
        each = one.cepstra(frames).view(2, 6 * stride, 2 * one.config.cepstra)
        before = max(0, (window - stride) // 2)
        for place in range(6):
            first = place * stride - before
            at = np.arange(first, first + window).clip(0, 6 * stride - 1)
            expected = each[:, at].transpose(1, 2).flatten(1)
            torch.testing.assert_close(cepstra[:, place], expected)
