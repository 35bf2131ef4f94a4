"""Companding and spectra by hand, frames where they are promised, and the way back to a waveform."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.core.errors import InputError
from smalti.nn import spectral
from smalti.nn.spectral import (
    FLOOR,
    LogMel,
    ShortTimeFourier,
    griffin_lim,
    mel_filters,
    mu_law_decode,
    mu_law_encode,
)

RATE = 4000
SIZES = pytest.mark.parametrize(("hop", "n_fft"), [(16, 64), (15, 64), (16, 63), (1, 2), (40, 40), (7, 33)])


def noise(*shape, seed=0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def frame_by_hand(signal: np.ndarray, index: int, hop: int, n_fft: int) -> np.ndarray:
    """The spectrum of one frame of `(T,)`, by NumPy and one sample after another."""
    period = 2 * (len(signal) - 1) or 1
    start = index * hop + hop // 2 - n_fft // 2
    places = [position % period for position in range(start, start + n_fft)]
    values = [signal[min(place, period - place)] for place in places]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return np.fft.rfft(np.array(values) * window / (window.sum() / 2))


def hz_of_mel(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


class TestMuLaw:
    def test_formula_and_inverse(self):
        x = torch.linspace(-1, 1, 4001)
        companded = mu_law_encode(x)
        expected = np.sign(x.numpy()) * np.log(1 + 255 * np.abs(x.numpy())) / np.log(256)
        np.testing.assert_allclose(companded, expected, atol=1e-6)
        np.testing.assert_allclose(mu_law_decode(companded), x, atol=1e-6)

    def test_ends_middle_and_another_mu(self):
        ends = torch.tensor([-1.0, 0.0, 1.0])
        assert torch.equal(mu_law_encode(ends), ends)
        assert torch.equal(mu_law_decode(ends), ends)
        assert mu_law_encode(torch.tensor(0.1), mu=9.0).item() == pytest.approx(math.log(1.9) / math.log(10))

    @settings(max_examples=50, deadline=None)
    @given(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32))
    def test_odd_and_monotone(self, a, b):
        low, high = sorted((a, b))
        encoded = mu_law_encode(torch.tensor([low, high, -low]))
        assert encoded[0] <= encoded[1]
        assert encoded[2] == -encoded[0]


class TestMelFilters:
    def test_peaks_on_slaneys_scale(self):
        _, centres = mel_filters(16000, 400, 80)
        top = 15 + 27 * math.log(8) / math.log(6.4)
        expected = [hz_of_mel(top * (index + 1) / 81) for index in range(80)]
        np.testing.assert_allclose(centres, expected, rtol=1e-5)

    def test_triangles_of_height_one(self):
        filters, centres = mel_filters(RATE, 8000, 6)
        for row, centre in zip(filters.numpy(), centres.tolist(), strict=True):
            assert row.max() == pytest.approx(1, abs=0.005)
            assert row.argmax() * RATE / 8000 == pytest.approx(centre, abs=0.51)
        # Neighbours add up to one between the first peak and the last.
        inside = slice(math.ceil(centres[0] * 2), math.floor(centres[-1] * 2))
        np.testing.assert_allclose(filters[:, inside].sum(0), 1, atol=1e-5)
        assert filters[:, 0].sum() == 0

    def test_equal_however_many_are_computed_at_once(self, monkeypatch):
        filters, _ = mel_filters(16000, 400, 80)
        monkeypatch.setattr(spectral, "FILTERS_AT_ONCE", 1000)
        assert torch.equal(mel_filters(16000, 400, 80)[0], filters)

    def test_empty_channels_are_refused(self):
        mel_filters(16000, 400, 80)
        with pytest.raises(InputError, match=r"wider than 40 Hz.* 200 channels are narrower"):
            mel_filters(16000, 400, 200)


class TestShortTimeFourier:
    @SIZES
    @pytest.mark.parametrize("length", [1, 2, 5, 41, 160, 173])
    def test_every_frame_by_hand(self, hop, n_fft, length):
        signal = noise(2, 1, length)
        spectra = ShortTimeFourier(hop, n_fft)(signal)
        assert spectra.shape == (2, n_fft // 2 + 1, length // hop)
        for item in range(2):
            for index in range(length // hop):
                expected = frame_by_hand(signal[item, 0].numpy(), index, hop, n_fft)
                np.testing.assert_allclose(spectra[item, :, index], expected, atol=2e-5)

    @pytest.mark.parametrize(("hop", "n_fft"), [(16, 64), (10, 32)])
    def test_a_click_is_loudest_in_the_frame_of_its_own_hop(self, hop, n_fft):
        for sample in range(2 * hop, 6 * hop):
            click = torch.zeros(1, 1, 10 * hop)
            click[..., sample] = 1
            energy = ShortTimeFourier(hop, n_fft)(click).abs().square().sum(1)[0]
            assert energy[sample // hop] >= energy.max() * (1 - 1e-5)

    def test_a_full_sine_has_magnitude_one(self):
        sine = torch.sin(2 * math.pi * 500 * torch.arange(1600) / RATE)[None, None]
        spectra = ShortTimeFourier(16, 64)(sine).abs()[0, :, 10:-10]
        np.testing.assert_allclose(spectra[500 * 64 // RATE], 1, atol=1e-3)

    @SIZES
    def test_inverse(self, hop, n_fft):
        signal = noise(2, 1, 6 * n_fft)
        fourier = ShortTimeFourier(hop, n_fft)
        again = fourier.inverse(fourier(signal))
        kept = 6 * n_fft // hop * hop
        assert again.shape == (2, 1, kept)
        # Nothing is left of a sample that only a window's zero saw, as some are where windows do not overlap.
        window = np.hanning(n_fft + 1)[:-1]
        seen = np.resize(window > 0.01, kept) if hop == n_fft else np.full(kept, True)
        np.testing.assert_allclose(again[..., seen], signal[..., :kept][..., seen], atol=1e-3)
        assert again.abs().max() < 1.01

    def test_buffers_are_in_no_checkpoint_and_move_with_the_module(self):
        module = LogMel(RATE, 8, 16, 64)
        assert module.state_dict() == {}
        assert {name for name, _ in module.named_buffers()} == {"filters", "centres_hz", "fourier.window"}

    @pytest.mark.parametrize(("hop", "n_fft"), [(0, 8), (9, 8), (1, 1), (-1, 4)])
    def test_bad_sizes(self, hop, n_fft):
        with pytest.raises(InputError, match=f"a hop of {hop} and a window of {n_fft}"):
            ShortTimeFourier(hop, n_fft)


class TestLogMel:
    def test_by_hand(self):
        signal = noise(1, 1, 100)
        log_mel = LogMel(RATE, 6, 16, 64)
        frames = [np.abs(frame_by_hand(signal[0, 0].numpy(), index, 16, 64)) for index in range(6)]
        filters, _ = mel_filters(RATE, 64, 6)
        expected = np.log(np.maximum(filters.numpy() @ np.stack(frames, 1), 1e-5))
        np.testing.assert_allclose(log_mel(signal)[0], expected, atol=1e-4)

    def test_in_blocks_it_is_the_same(self, monkeypatch):
        signal, log_mel = noise(2, 1, 1000), LogMel(RATE, 8, 16, 64)
        whole = log_mel(signal)
        for block in (1, 7, 62):
            monkeypatch.setattr(spectral, "FRAMES_AT_ONCE", block)
            np.testing.assert_allclose(log_mel(signal), whole, atol=1e-5)

    @pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 63])
    def test_short_sounds(self, length):
        result = LogMel(RATE, 8, 16, 64)(noise(3, 1, length))
        assert result.shape == (3, 8, length // 16)
        assert result.isfinite().all()

    def test_silence_is_at_the_floor_and_a_sine_near_zero(self):
        log_mel = LogMel(16000)
        np.testing.assert_allclose(log_mel(torch.zeros(1, 1, 800)), math.log(FLOOR), rtol=1e-6)
        for hz in (200, 440, 1000, 5000):
            sine = torch.sin(2 * math.pi * hz * torch.arange(8000) / 16000)[None, None]
            assert -0.5 < log_mel(sine).max() < math.log(2)

    def test_gradients_are_finite_for_silence_and_sound(self):
        for signal in (torch.zeros(1, 1, 200), noise(1, 1, 200)):
            signal.requires_grad_()
            LogMel(RATE, 8, 16, 64)(signal).sum().backward()
            assert signal.grad.isfinite().all()
        assert signal.grad.abs().max() > 0

    def test_autocast_does_not_round(self):
        signal, log_mel = noise(1, 1, 200), LogMel(RATE, 8, 16, 64)
        with torch.autocast("cpu", torch.bfloat16):
            within = log_mel(signal)
        assert torch.equal(within, log_mel(signal))


class TestGriffinLim:
    LOG_MEL = LogMel(RATE, 16, 16, 128)

    def error(self, iterations: int, momentum: float) -> float:
        spectrogram = self.LOG_MEL(self.chirp())
        sound = griffin_lim(spectrogram, self.LOG_MEL, iterations, momentum)
        return float((self.LOG_MEL(sound).exp() - spectrogram.exp()).abs().mean())

    @staticmethod
    def chirp() -> torch.Tensor:
        time = torch.arange(2000) / RATE
        return 0.5 * torch.sin(2 * math.pi * (200 + 800 * time) * time)[None, None]

    def test_iterations_and_momentum_come_nearer(self):
        without, plain, fast = self.error(0, 0.99), self.error(32, 0.0), self.error(32, 0.99)
        assert fast < plain < 0.5 * without

    def test_length_seed_and_batch(self):
        spectrogram = self.LOG_MEL(self.chirp())
        sound = griffin_lim(spectrogram, self.LOG_MEL, 3)
        assert sound.shape == (1, 1, 2000)
        assert torch.equal(sound, griffin_lim(spectrogram, self.LOG_MEL, 3))
        assert not torch.equal(sound, griffin_lim(spectrogram, self.LOG_MEL, 3, seed=1))
        assert griffin_lim(spectrogram.expand(2, -1, -1), self.LOG_MEL, 1).shape == (2, 1, 2000)

    def test_a_sine_keeps_its_pitch_and_level(self):
        sine = 0.5 * torch.sin(2 * math.pi * 500 * torch.arange(4000) / RATE)[None, None]
        sound = griffin_lim(self.LOG_MEL(sine), self.LOG_MEL)[0, 0].numpy()
        spectrum = np.abs(np.fft.rfft(sound[1000:3000] * np.hanning(2000)))
        assert spectrum.argmax() * RATE / 2000 == pytest.approx(500, abs=60)
        assert 0.2 < np.sqrt(2 * np.mean(sound**2)) < 0.8

    def test_of_no_frame_and_of_one(self):
        assert griffin_lim(torch.zeros(1, 16, 0), self.LOG_MEL).shape == (1, 1, 0)
        assert griffin_lim(torch.zeros(1, 16, 1), self.LOG_MEL).isfinite().all()
