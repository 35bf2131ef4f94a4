"""Waveforms as a modality: levels by hand, exact 16 bits, what users pass, previews and files."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.core.signals import SignalSpec
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio.modality import AudioConfig, AudioModality

RATE = 4000
ENCODINGS = pytest.mark.parametrize("encoding", ["mu_law", "linear"])
RNG = np.random.default_rng(0)
SAMPLES = RNG.uniform(-1, 1, 500).astype(np.float32)


def modality(encoding="mu_law", **options) -> AudioModality:
    return AudioModality(AudioConfig(sample_rate_hz=RATE, length=64, encoding=encoding, **options))


def levels_by_hand(samples: np.ndarray, encoding: str) -> np.ndarray:
    samples = samples.astype(np.float64)
    if encoding == "linear":
        return np.clip(np.floor(samples * 32768) + 32768, 0, 65535)
    companded = np.sign(samples) * np.log(1 + 255 * np.abs(samples)) / np.log(256)
    return np.rint((companded + 1) * 127.5)


class TestConfig:
    def test_defaults_and_round_trip(self):
        config = AudioConfig()
        assert (config.kind, config.sample_rate_hz, config.length, config.encoding) == (
            "audio", 16000, 8192, "mu_law",
        )  # fmt: skip
        assert (config.trim, config.pattern) == (False, None)
        config = AudioConfig(trim=True, pattern="(?P<speaker>.)", encoding="linear")
        assert AudioConfig.model_validate_json(config.model_dump_json()) == config
        assert AudioModality(AudioConfig.tiny()).spec.size == (64,)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"sample_rate_hz": 999},
            {"sample_rate_hz": 192001},
            {"length": 0},
            {"encoding": "a_law"},
            {"kind": "image"},
            {"speed": 1},
        ],
    )
    def test_refused(self, wrong):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            AudioConfig(**wrong)

    @pytest.mark.parametrize(("encoding", "levels"), [("mu_law", 256), ("linear", 65536)])
    def test_what_it_promises(self, encoding, levels):
        one = modality(encoding, trim=True)
        assert isinstance(one, Modality)
        assert one.spec == SignalSpec(1, (64,), levels, RATE)
        assert one.stored_shape == (1, None)
        assert one.padding == one.decode(np.zeros(1)).item()
        assert one.pattern is None
        assert modality(encoding, pattern="(?P<label>.)").pattern == "(?P<label>.)"
        assert one.seconds(RATE * 3) == 3
        assert (one.plural_name, one.ending) == ("sounds", ".wav")
        assert {".wav", ".flac", ".mp3", ".opus"} <= set(one.extensions)
        assert one.protocol() == {
            "sample_rate_hz": RATE,
            "channels": "mean",
            "resampling": "soxr HQ",
            "trim": "below -40 dB of the peak, 50 ms kept",
            "encoding": encoding,
            "range": [-1.0, 1.0],
            "levels": levels,
        }


class TestLevels:
    @ENCODINGS
    def test_decode_by_hand(self, encoding):
        decoded = modality(encoding).decode(SAMPLES)
        assert decoded.shape == (1, 500)
        assert decoded.dtype == modality(encoding).spec.domain.dtype
        np.testing.assert_array_equal(decoded[0], levels_by_hand(SAMPLES, encoding))

    @ENCODINGS
    def test_every_level_round_trips(self, encoding):
        one = modality(encoding)
        decoded = one.decode(np.zeros(1))
        levels = torch.arange(one.spec.levels).to(torch.from_numpy(decoded).dtype)[None, None]
        signal = one.to_model(levels)
        assert signal.dtype == torch.float32
        assert (signal.min(), signal.max()) == (-1, 1)
        assert torch.equal(one.to_stored(signal), levels)
        assert one.to_stored(signal).dtype == levels.dtype

    @ENCODINGS
    def test_stored_is_clipped(self, encoding):
        stored = modality(encoding).to_stored(torch.tensor([[[-3.0, 3.0]]]))
        assert stored.flatten().tolist() == [0, modality(encoding).spec.levels - 1]

    @ENCODINGS
    def test_waveform_and_back(self, encoding):
        one = modality(encoding)
        waveform = torch.from_numpy(SAMPLES)[None, None]
        np.testing.assert_allclose(one.waveform(one.from_waveform(waveform)), waveform, atol=1e-6)
        again = one.waveform(one.to_model(torch.from_numpy(one.decode(SAMPLES))[None]))
        # Half a step, which mu-law has widest at full scale; of linear up to a whole one, since its steps are
        # those of 16 bits.
        most = np.log(256) / 255 if encoding == "mu_law" else 1 / 32768
        assert (again - waveform).abs().max() <= most * 1.02

    @ENCODINGS
    def test_rendered_is_clipped_linear_amplitude(self, encoding):
        one = modality(encoding)
        signal = torch.tensor([[[-2.0, 0.5, 2.0]]])
        assert torch.equal(one.render(signal), one.waveform(signal.clamp(-1, 1)))

    def test_linear_keeps_every_16_bit_sample_through_a_file(self, tmp_path: Path):
        one = modality("linear")
        pcm = np.arange(-32768, 32768).astype(np.int16)
        soundfile.write(tmp_path / "a.wav", pcm, RATE)
        levels = one.decode(tmp_path / "a.wav")
        np.testing.assert_array_equal(levels[0], np.arange(65536))
        signals = {"levels": levels, "floats": one.to_model(torch.from_numpy(levels)[None])}
        for name, signal in signals.items():
            one.save(signal, tmp_path / f"{name}.wav")
            np.testing.assert_array_equal(soundfile.read(tmp_path / f"{name}.wav", dtype="int16")[0], pcm)

    def test_mu_law_keeps_its_levels_through_a_file(self, tmp_path: Path):
        one = modality()
        levels = np.arange(256, dtype=np.uint8)[None]
        one.save(levels, tmp_path / "a.flac")
        np.testing.assert_array_equal(one.decode(tmp_path / "a.flac"), levels)

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20), st.sampled_from(["mu_law", "linear"])
    )
    def test_louder_is_never_a_lower_level(self, values, encoding):
        levels = modality(encoding).decode(np.sort(np.array(values, np.float32)))[0]
        assert (np.diff(levels.astype(int)) >= 0).all()

    def test_resampled_and_unreadable(self, tmp_path: Path):
        soundfile.write(tmp_path / "a.wav", SAMPLES, 2 * RATE)
        assert modality().decode(tmp_path / "a.wav").shape == (1, 250)
        with pytest.raises(UnreadableItem, match="empty"):
            modality().decode(b"")


class TestTrim:
    @staticmethod
    def sound(before: int, after: int, level=0.5) -> np.ndarray:
        return np.concatenate([np.full(before, 0.004), np.full(100, level), np.full(after, -0.004)])

    @pytest.mark.parametrize(
        ("before", "after"), [(0, 0), (10, 0), (0, 199), (200, 200), (201, 999), (5000, 3)]
    )
    def test_silence_goes_but_for_50_ms(self, before, after):
        sound = self.sound(before, after)
        expected = self.sound(min(before, 200), min(after, 200))
        one = modality("linear", trim=True)
        np.testing.assert_array_equal(one.decode(sound), modality("linear").decode(expected))

    def test_silence_within_and_whole_silence_stay(self):
        sound = np.concatenate([self.sound(0, 900), self.sound(900, 0)])
        for samples in (sound, np.zeros(3000), self.sound(900, 900, level=0.004)):
            one, plain = modality("linear", trim=True), modality("linear")
            np.testing.assert_array_equal(one.decode(samples), plain.decode(samples))


class TestCheck:
    @ENCODINGS
    def test_every_form_gives_what_its_file_gives(self, encoding, tmp_path: Path):
        one = modality(encoding)
        path = tmp_path / "a.wav"
        soundfile.write(path, SAMPLES, RATE, subtype="FLOAT")
        expected = one.to_model(torch.from_numpy(one.decode(path))[None])
        tensor = torch.from_numpy(SAMPLES)
        for form in (
            path, str(path), path.read_bytes(), SAMPLES, SAMPLES[None], SAMPLES.astype(np.float64)[None],
            SAMPLES[None, None], tensor, tensor[None], tensor[None, None].requires_grad_(), [path],
            (SAMPLES,), SAMPLES.astype(">f4"), SAMPLES[::-1].copy()[::-1],
        ):  # fmt: skip
            checked = one.check(form)
            assert len(checked) == 1
            assert checked[0].dtype == torch.float32
            assert torch.equal(checked[0], expected)

    def test_batches_and_lists_of_different_lengths(self):
        batch = torch.from_numpy(SAMPLES).reshape(5, 1, 100)
        shapes = [tuple(sound.shape) for sound in modality().check([batch, SAMPLES, [SAMPLES[:7]]])]
        assert shapes == [(1, 1, 100)] * 5 + [(1, 1, 500), (1, 1, 7)]
        for sound, row in zip(modality().check(batch), batch, strict=True):
            assert torch.equal(sound, modality().check(row)[0])

    def test_rounding_beyond_the_range_is_no_error(self):
        assert modality().check(torch.tensor([1.00005, -1.00005]))[0].flatten().tolist() == [1, -1]

    @pytest.mark.parametrize(
        ("sound", "words"),
        [
            (torch.tensor([0.0, 1.01]), r"values from 0 to 1.01: divide by the peak"),
            (np.array([np.nan]), "values from nan"),
            (np.zeros(4, np.int16), r"received torch.int16: divide 16-bit samples by 32768"),
            (np.zeros(4, bool), "bool"),
            (np.zeros((2, 100)), r"\(2, 100\): average the channels"),
            (np.zeros((3, 2, 100)), r"\(3, 2, 100\)"),
            (np.zeros((1, 1, 1, 9)), "shape"),
            (np.zeros(()), "shape"),
            (np.zeros(0), "non-empty sounds"),
            (np.array(["a"]), "<U1"),
            ([], "an empty list"),
            (None, "received NoneType"),
            ([0.5], "received float"),
            (b"RIFF", "cannot be read as a sound"),
            ("gone.wav", "gone.wav cannot be read as a sound: No such file"),
        ],
    )
    def test_refused(self, sound, words):
        with pytest.raises(InputError, match=words):
            modality().check(sound)


class TestPreview:
    def test_rows_of_tensors_and_lists(self):
        one = modality()
        batch = one.from_waveform(torch.from_numpy(SAMPLES).reshape(2, 1, 250))
        lists = [batch[0, :, :100], batch[1:2, :, :3]]
        batch = one.to_model(one.to_stored(batch))
        pictures = [one.preview([row, lists]) for row in (batch.numpy(), one.to_stored(batch))]
        assert pictures[0].mode == "RGB"
        assert pictures[0].tobytes() == pictures[1].tobytes()
        assert one.preview([batch]).height < pictures[0].height
        assert np.asarray(pictures[0]).std() > 20

    def test_eight_at_most(self):
        one, batch = modality(), torch.zeros(9, 1, 64)
        assert one.preview([batch]).tobytes() == one.preview([batch[:8]]).tobytes()

    def test_silence_is_dark(self):
        colours = np.asarray(modality("linear").preview([torch.zeros(1, 1, 400)]))
        assert (colours.astype(int).sum(2) < 60).mean() > 0.3

    @pytest.mark.parametrize("rate", [1000, 16000, 192000])
    def test_at_any_rate(self, rate):
        one = AudioModality(AudioConfig(sample_rate_hz=rate))
        assert one.preview([torch.zeros(1, 1, 1), [torch.zeros(1, 9)]]).width > 100

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            ([], r"received \[\]"),
            ([[]], r"received \[0\]"),
            ([torch.zeros(2, 1, 9), torch.zeros(3, 1, 9)], r"same number of sounds, .*received \[2, 3\]"),
            ([torch.zeros(2, 3, 9)], r"signals \(1, T\) or \(B, 1, T\), received the shape \(2, 3, 9\)"),
            ([torch.zeros(9)], "shape"),
            ([torch.zeros(1, 1, 0)], "shape"),
        ],
    )
    def test_refused(self, rows, words):
        with pytest.raises(InputError, match=words):
            modality().preview(rows)


class TestSave:
    @ENCODINGS
    def test_floats_in_the_models_range(self, encoding, tmp_path: Path):
        one = modality(encoding)
        signal = one.from_waveform(torch.from_numpy(SAMPLES)[None, None])
        for index, form in enumerate((signal, signal[0], signal.numpy())):
            one.save(form, tmp_path / f"{index}.wav")
            samples, rate = soundfile.read(tmp_path / f"{index}.wav")
            assert rate == RATE
            np.testing.assert_allclose(samples, SAMPLES, atol=2 / 32768)

    @ENCODINGS
    def test_loud_is_clipped_and_does_not_wrap(self, encoding, tmp_path: Path):
        modality(encoding).save(torch.tensor([[-1.5, 1.5]]), tmp_path / "a.wav")
        assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [-32768, 32767]

    def test_refused(self, tmp_path: Path):
        with pytest.raises(InputError, match="one sound, received 2"):
            modality().save(torch.zeros(2, 1, 9), tmp_path / "a.wav")
        with pytest.raises(InputError, match="ends in"):
            modality().save(torch.zeros(1, 9), tmp_path / "a.png")
