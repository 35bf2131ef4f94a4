"""Reading and writing sounds: every kind of file, exact where nothing changes, or else a reason."""

import ast
import io
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.core.errors import InputError
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio import libsndfile, sounds
from smalti.modalities.audio.sounds import read_sound, sound_notes, write_sound

RATE = 16000
PCM = np.random.default_rng(0).integers(-32768, 32768, 4000).astype(np.int16)
PCM[:2] = -32768, 32767
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def encoded(samples=PCM, kind="WAV", subtype=None, rate=RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def reason(content, rate=RATE) -> str:
    with pytest.raises(UnreadableItem) as caught:
        read_sound(content, rate)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestExactly:
    """A sound of one channel at the rate keeps its samples, whatever the file."""

    @pytest.mark.parametrize(
        "kind", ["WAV", "FLAC", "AIFF", "AU", "CAF", "W64", "RF64", "NIST", "VOC", "WAVEX"]
    )
    def test_16_bits(self, kind):
        samples = read_sound(encoded(kind=kind), RATE)
        assert samples.dtype == np.float32
        assert samples.flags.c_contiguous
        np.testing.assert_array_equal(samples, PCM / np.float32(32768))

    @pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_24"), ("FLAC", "PCM_24"), ("WAV", "PCM_32")])
    def test_more_bits(self, kind, subtype):
        wide = PCM.astype(np.int32) * 65536 + 256
        np.testing.assert_array_equal(
            read_sound(encoded(wide, kind, subtype), RATE), wide.astype(np.float32) / 2**31
        )

    def test_8_bits_are_unsigned(self):
        data = bytearray(encoded(np.zeros(3), subtype="PCM_U8"))
        start = data.index(b"data") + 8
        data[start : start + 3] = bytes([0, 128, 255])
        np.testing.assert_array_equal(read_sound(bytes(data), RATE), [-1, 0, 127 / 128])

    @pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
    def test_floats_are_clipped_last(self, subtype):
        stereo = np.array([[3.0, -2.0], [0.25, 0.5], [-4.0, 0.0], [2.0, 2.0]])
        np.testing.assert_array_equal(read_sound(encoded(stereo, subtype=subtype), RATE), [0.5, 0.375, -1, 1])

    @pytest.mark.parametrize("channels", [2, 3, 6])
    def test_channels_are_averaged(self, channels):
        many = np.resize(PCM, (1000, channels))
        expected = (many.astype(np.float64) / 32768).mean(1)
        np.testing.assert_allclose(read_sound(encoded(many), RATE), expected, atol=1e-7)

    def test_file_on_disk(self, tmp_path: Path):
        path = tmp_path / "sound.flac"
        path.write_bytes(encoded(kind="FLAC"))
        np.testing.assert_array_equal(read_sound(path, RATE), PCM / np.float32(32768))

    def test_in_pieces(self, monkeypatch):
        monkeypatch.setattr(libsndfile, "VALUES_AT_ONCE", 7)
        for kind in ("WAV", "FLAC"):
            np.testing.assert_array_equal(read_sound(encoded(kind=kind), RATE), PCM / np.float32(32768))

    @pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
    def test_lossy_kinds(self, kind, subtype):
        samples = read_sound(encoded(TONE, kind, subtype), RATE)
        assert len(samples) == pytest.approx(RATE, abs=1200)
        peak = np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples)
        assert peak == pytest.approx(440, abs=2)


class TestResampling:
    @pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
    def test_length_pitch_and_level(self, rate):
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
        samples = read_sound(encoded(tone, subtype="FLOAT", rate=rate), RATE)
        assert len(samples) == RATE
        np.testing.assert_allclose(samples[500:-500], TONE[500:-500], atol=1e-3)

    def test_nothing_folds_over(self):
        hiss = np.sin(2 * np.pi * 15000 * np.arange(48000) / 48000)
        assert np.abs(read_sound(encoded(hiss, rate=48000), RATE)[500:-500]).max() < 1e-3

    def test_overshoot_is_clipped(self):
        square = np.sign(np.sin(2 * np.pi * 440 * np.arange(4000) / 8000))
        assert np.abs(read_sound(encoded(square, subtype="FLOAT", rate=8000), RATE)).max() == 1


class TestArrays:
    def test_integers(self):
        np.testing.assert_array_equal(read_sound(PCM, RATE), PCM / np.float32(32768))
        unsigned = np.array([0, 128, 255], np.uint8)
        np.testing.assert_array_equal(read_sound(unsigned, RATE), [-1, 0, 127 / 128])

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats(self, dtype):
        np.testing.assert_array_equal(read_sound(np.array([-2, 0.5, 1], dtype), RATE), [-1, 0.5, 1])

    def test_channels_last_and_not_contiguous(self):
        stereo = np.stack([TONE, -TONE / 2], 1)[::-3]
        np.testing.assert_allclose(read_sound(stereo, RATE), stereo.mean(1), atol=1e-7)
        np.testing.assert_array_equal(read_sound(TONE[:, None], RATE), TONE)

    @pytest.mark.parametrize(
        ("samples", "words"),
        [
            (np.zeros(4, np.int32), "int32"),
            (np.zeros(4, complex), "complex128"),
            (np.zeros((2, 4, 3)), "shape"),
            (np.zeros((2, 4000)), r"\(T, C\).*\(2, 4000\)"),
            (np.zeros(()), "shape"),
            (np.zeros(0), "no samples"),
            (np.array([0, np.nan]), "NaN"),
            (np.array([0, -np.inf], np.float32), "NaN"),
            (np.array([1e300]), "NaN"),
        ],
    )
    def test_others_are_unreadable(self, samples, words):
        with pytest.raises(UnreadableItem, match=words):
            read_sound(samples, RATE)


class TestUnreadable:
    def test_empty_and_text(self, tmp_path: Path):
        (tmp_path / "empty.wav").touch()
        assert reason(b"") == reason(tmp_path / "empty.wav") == "the file is empty"
        (tmp_path / "notes.wav").write_text("not a sound")
        assert "not a sound" in reason(tmp_path / "notes.wav")

    def test_missing_file_folder_and_impossible_name(self, tmp_path: Path):
        assert reason(tmp_path / "gone.wav") == "No such file or directory"
        assert reason(tmp_path) == "Is a directory"
        assert reason(tmp_path / "a\0b.wav") == "invalid file name"

    def test_no_permission(self, tmp_path: Path, monkeypatch):
        def refuse(path: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "read_bytes", refuse)
        assert reason(tmp_path / "secret.wav") == "Permission denied"

    def test_without_samples_or_too_few_to_resample(self):
        assert reason(encoded(PCM[:0])) == "the sound has no samples"
        assert "too short" in reason(encoded(PCM[:1], rate=48000))

    def test_not_finite(self):
        for value in (np.nan, np.inf):
            assert "NaN" in reason(encoded(np.array([0.0, value]), subtype="FLOAT"))

    @pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF", "AU", "CAF", "MP3", "W64", "RF64", "OGG"])
    @pytest.mark.parametrize("share", [0.5, 0.8])
    def test_cut_short(self, kind, share):
        data = encoded(np.resize(PCM, 40000), kind)
        text = reason(data[: int(len(data) * share)])
        assert "truncated" in text or "damaged" in text

    def test_how_much_of_it_is_there(self):
        assert reason(encoded()[:-4000]) == "truncated: it holds 4000 of its 8000 bytes of samples"

    @pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFFFFF, 8000 + 44, 8000 + 1])
    def test_lengths_that_streaming_or_sloppy_programs_write(self, claimed):
        data = bytearray(encoded())
        place = data.index(b"data") + 4
        data[place : place + 4] = struct.pack("<I", claimed)
        np.testing.assert_array_equal(read_sound(bytes(data), RATE), PCM / np.float32(32768))

    def test_flac_of_unknown_or_impossible_length(self):
        data = bytearray(encoded(kind="FLAC"))
        # The 36 bits of STREAMINFO's "total samples" begin in the low half of byte 21.
        data[21] |= 0xF
        assert "truncated" in reason(bytes(data))
        data[21] &= 0xF0
        data[22:26] = bytes(4)
        np.testing.assert_array_equal(read_sound(bytes(data), RATE), PCM / np.float32(32768))

    @pytest.mark.parametrize("rate", [1, 999, 2_000_000])
    def test_sample_rates_that_cannot_be(self, rate):
        assert reason(encoded(rate=rate)) == f"its sample rate is {rate} Hz, not within 1000 to 1000000"

    @pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
    @settings(max_examples=80, deadline=None)
    @given(st.sampled_from(["WAV", "FLAC", "OGG", "AIFF", "CAF", "NIST"]), st.data())
    def test_damage_gives_a_sound_or_a_reason(self, kind, data):
        content = bytearray(encoded(PCM[:500], kind))
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, min(199, len(content) - 1)))] = data.draw(st.integers(0, 255))
        try:
            samples = read_sound(bytes(content), RATE)
        except UnreadableItem:
            return
        assert samples.ndim == 1
        assert samples.size
        assert np.abs(samples).max() <= 1


def test_threads_read_what_one_does():
    whole = {kind: encoded(kind=kind) for kind in ("WAV", "FLAC", "OGG")}
    expected = {kind: read_sound(data, 22050) for kind, data in whole.items()}
    damaged = reason(whole["FLAC"][:60])

    def attempt(index: int) -> bool:
        kind = ("WAV", "FLAC", "OGG")[index % 3]
        same = np.array_equal(read_sound(whole[kind], 22050), expected[kind])
        return same and reason(whole["FLAC"][:60]) == damaged

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(attempt, range(200)))


class TestNotes:
    @pytest.mark.parametrize("samples", [np.zeros(100), np.full(100, 0.3), np.array([]), np.full(9, 1.0)])
    def test_silent(self, samples):
        assert sound_notes(samples.astype(np.float32)) == ["silent throughout"]

    def test_clipped(self):
        loud = np.clip(TONE * 4, -1, 1)
        share = np.mean(np.abs(loud) > 0.999)
        assert sound_notes(loud) == [f"clipped: {share:.1%} of the samples are at full scale"]

    def test_nothing_odd(self):
        assert sound_notes(TONE) == []
        assert sound_notes(TONE * 1.9) == []
        assert sound_notes(TONE * 1e-3) == []


class TestWrite:
    @pytest.mark.parametrize("name", ["a.wav", "a.FLAC"])
    def test_what_was_read_comes_back_exactly(self, tmp_path, name):
        path = tmp_path / name
        write_sound(PCM / np.float32(32768), path, 8000)
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (8000, 1, "PCM_16")
        np.testing.assert_array_equal(soundfile.read(path, dtype="int16")[0], PCM)

    def test_integers_as_they_are(self, tmp_path):
        write_sound(PCM, tmp_path / "a.wav", RATE)
        np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0], PCM)

    def test_clipped_and_rounded(self, tmp_path):
        write_sound(np.array([-7.0, -1, 0.6 / 32768, 1, 1.5]), str(tmp_path / "a.wav"), RATE)
        values = soundfile.read(tmp_path / "a.wav", dtype="int16")[0]
        assert values.tolist() == [-32768, -32768, 1, 32767, 32767]

    def test_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"\.wav or \.flac, received .*a\.mp3"):
            write_sound(TONE, tmp_path / "a.mp3", RATE)
        with pytest.raises(InputError, match="NaN"):
            write_sound(np.array([0, np.nan]), tmp_path / "a.wav", RATE)
        with pytest.raises(FileNotFoundError):
            write_sound(TONE, tmp_path / "none" / "a.wav", RATE)
        assert list(tmp_path.iterdir()) == []


SLOW = "soundfile|soxr|matplotlib|^import av|^from av"


def test_libraries_that_take_long_to_import_are_imported_when_they_are_needed():
    for file in Path(sounds.__file__).parent.glob("*.py"):
        for statement in ast.parse(file.read_text()).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                assert not re.search(SLOW, ast.unparse(statement)), file.name
