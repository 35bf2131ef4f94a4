"""Log-mel spectrograms as a modality: normalisation by hand, levels, frames, and about the way back."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.core.signals import SignalSpec
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio.spectrogram import LogMelConfig, LogMelModality
from smalti.nn.spectral import LogMel

RATE, HOP, MELS = 4000, 32, 8
TIME = np.arange(2000) / RATE
SAMPLES = (np.sin(2 * np.pi * 440 * TIME) * np.sin(20 * TIME) ** 2 * 0.7).astype(np.float32)
NORMALISE = pytest.mark.parametrize("normalise", ["none", "utterance"])


def modality(normalise="utterance", **options) -> LogMelModality:
    return LogMelModality(LogMelConfig.tiny().model_copy(update={"normalise": normalise, **options}))


def nats(samples: np.ndarray) -> np.ndarray:
    return LogMel(RATE, MELS, HOP, 64)(torch.from_numpy(samples)[None, None])[0].double().numpy()


class TestConfig:
    def test_defaults_and_round_trip(self):
        config = LogMelConfig()
        assert (config.kind, config.num_mels, config.hop, config.window, config.length) == (
            "log_mel", 80, 160, 400, 128,
        )  # fmt: skip
        assert config.normalise == "utterance"
        config = LogMelConfig(trim=True, pattern="(?P<speaker>.)", normalise="none")
        assert LogMelConfig.model_validate_json(config.model_dump_json()) == config

    @pytest.mark.parametrize("wrong", [{"num_mels": 0}, {"hop": -1}, {"normalise": "all"}, {"n_fft": 400}])
    def test_refused(self, wrong):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            LogMelConfig(**wrong)

    def test_what_no_window_can_do_is_refused(self):
        with pytest.raises(InputError, match="a hop of 500 and a window of 400"):
            LogMelModality(LogMelConfig(hop=500))
        with pytest.raises(InputError, match="channels are narrower"):
            LogMelModality(LogMelConfig(sample_rate_hz=48000))

    def test_what_it_promises(self):
        one = modality()
        assert isinstance(one, Modality)
        assert one.spec == SignalSpec(MELS, (16,), 256, RATE)
        assert one.stored_shape == (MELS, None)
        assert (one.padding, modality("none").padding) == (128, modality("none").decode(np.zeros(HOP)).max())
        assert modality(pattern="(?P<label>.)").pattern == "(?P<label>.)"
        assert one.seconds(125) == 125 * HOP / RATE
        assert (one.plural_name, one.ending) == ("sounds", ".wav")
        protocol = one.protocol()
        assert protocol["sample_rate_hz"] == RATE
        assert (protocol["hop"], protocol["window"], protocol["num_mels"]) == (HOP, 64, MELS)
        assert protocol != modality("none").protocol()
        assert protocol != modality(trim=True).protocol()


class TestLevels:
    def test_utterance_by_hand(self):
        expected = nats(SAMPLES)
        expected -= expected.mean(1, keepdims=True)
        expected /= 4 * expected.std(1, keepdims=True)
        decoded = modality().decode(SAMPLES)
        assert decoded.dtype == np.uint8
        assert decoded.shape == (MELS, 2000 // HOP)
        np.testing.assert_allclose(decoded, (np.clip(expected, -1, 1) + 1) * 127.5, atol=0.51)

    def test_fixed_range_by_hand(self):
        low, high = math.log(1e-5), math.log(2)
        expected = np.clip((nats(SAMPLES) - low) / (high - low), 0, 1) * 255
        np.testing.assert_allclose(modality("none").decode(SAMPLES), expected, atol=0.51)

    def test_loudness_matters_only_without_normalisation(self):
        quiet = SAMPLES * np.float32(0.5)
        # Where the floor does not cut.
        loud, soft = SAMPLES + np.float32(0.01) * TIME_NOISE, quiet + np.float32(0.005) * TIME_NOISE
        np.testing.assert_allclose(modality().decode(loud), modality().decode(soft).astype(int), atol=1)
        step = (math.log(2) - math.log(1e-5)) / 255
        difference = modality("none").decode(loud).astype(int) - modality("none").decode(soft)
        np.testing.assert_allclose(difference, math.log(2) / step, atol=1)

    @NORMALISE
    def test_silence_and_one_frame(self, normalise):
        for samples in (np.zeros(500), SAMPLES[:HOP]):
            decoded = modality(normalise).decode(samples)
            assert decoded.shape == (MELS, len(samples) // HOP)
            assert normalise == "none" or (decoded == 128).all()

    def test_a_click_is_cut_at_four_deviations(self):
        click = np.full(20000, 1e-4, np.float32) * np.resize([1, -1], 20000).astype(np.float32)
        click[10000] = 1
        assert modality().decode(click).max() == 255

    def test_every_level_round_trips(self):
        levels = torch.arange(256, dtype=torch.uint8).reshape(1, MELS, 32)
        signal = modality().to_model(levels)
        assert (signal.min(), signal.max()) == (-1, 1)
        assert torch.equal(modality().to_stored(signal), levels)
        assert modality().to_stored(torch.tensor([[[-9.0, 9.0]]])).flatten().tolist() == [0, 255]

    def test_trimmed_resampled_and_unreadable(self, tmp_path: Path):
        soundfile.write(tmp_path / "a.wav", SAMPLES, 2 * RATE)
        assert modality().decode(tmp_path / "a.wav").shape == (MELS, 1000 // HOP)
        padded = np.concatenate([SAMPLES, np.zeros(4000, np.float32)])
        assert modality(trim=True).decode(padded).shape[1] < modality().decode(padded).shape[1]
        with pytest.raises(UnreadableItem, match="too short: it has 31 samples, and one frame takes 32"):
            modality().decode(SAMPLES[:31])


TIME_NOISE = np.random.default_rng(0).normal(size=2000).astype(np.float32)


class TestCheck:
    @NORMALISE
    def test_every_form_gives_what_its_file_gives(self, normalise, tmp_path: Path):
        one = modality(normalise)
        path = tmp_path / "a.wav"
        soundfile.write(path, SAMPLES, RATE, subtype="FLOAT")
        expected = one.to_model(torch.from_numpy(one.decode(path))[None])
        for form in (path, str(path), path.read_bytes(), SAMPLES, torch.from_numpy(SAMPLES)[None], [SAMPLES]):
            (checked,) = one.check(form)
            assert torch.equal(checked, expected)

    def test_lengths_may_differ(self):
        shapes = [tuple(one.shape) for one in modality().check([SAMPLES, SAMPLES[:100]])]
        assert shapes == [(1, MELS, 62), (1, MELS, 3)]

    @pytest.mark.parametrize(
        ("sound", "words"),
        [
            (SAMPLES[:20], "32 samples.*received 20"),
            (SAMPLES * 2, r"floats in \[-1, 1\]"),
            (np.zeros((MELS, 10)), "shape"),
        ],
    )
    def test_refused(self, sound, words):
        with pytest.raises(InputError, match=words):
            modality().check(sound)


class TestBack:
    def test_the_sound_of_the_fixed_range_is_about_the_same(self):
        one = LogMelModality(
            LogMelConfig(sample_rate_hz=RATE, num_mels=24, hop=32, window=256, normalise="none")
        )
        spectrogram = one.from_waveform(torch.from_numpy(SAMPLES)[None, None])
        sound = one.waveform(spectrogram)
        assert sound.shape == (1, 1, 2000 // 32 * 32)
        # In nats, where there is something to hear: within 5 dB, for all that a tone is hard.
        heard = spectrogram > 0
        error = (one.log_mel(sound) - one.log_mel(torch.from_numpy(SAMPLES)[None, None]))[heard]
        assert error.abs().mean() < 0.6
        energy = sound.square().mean() / np.mean(SAMPLES**2)
        assert 0.4 < energy < 2.5

    def test_after_normalisation_it_is_as_loud_as_speech(self):
        (spectrogram,) = modality().check(SAMPLES)
        sound = modality().waveform(spectrogram)
        assert 1e-3 < sound.square().mean().sqrt() < 0.5
        assert sound.abs().max() <= 1

    @NORMALISE
    def test_save(self, normalise, tmp_path: Path):
        one = modality(normalise)
        levels = one.decode(SAMPLES)
        for index, form in enumerate((levels, torch.from_numpy(levels)[None], one.check(SAMPLES)[0])):
            one.save(form, tmp_path / f"{index}.wav")
            info = soundfile.info(tmp_path / f"{index}.wav")
            assert (info.samplerate, info.frames) == (RATE, 2000 // HOP * HOP)
        assert len({(tmp_path / f"{index}.wav").read_bytes() for index in range(3)}) == 1
        with pytest.raises(InputError, match="one sound, received 2"):
            one.save(np.stack([levels, levels]), tmp_path / "a.wav")


class TestPreview:
    def test_rows_of_tensors_and_lists(self):
        one = modality()
        levels = torch.from_numpy(one.decode(SAMPLES))
        batch = torch.stack([levels, levels.flip(1)])
        pictures = [one.preview([row, [levels[:, :9], levels[None]]]) for row in (batch, one.to_model(batch))]
        assert pictures[0].tobytes() == pictures[1].tobytes()
        assert np.asarray(pictures[0]).std() > 20

    def test_refused(self):
        with pytest.raises(InputError, match=r"signals \(8, T\) or \(B, 8, T\)"):
            modality().preview([torch.zeros(1, 1, 100)])
