"""Every kind of sound file that libsndfile and FFmpeg can write here: read right, or refused."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import av
import av.codec
import numpy as np
import pytest
import soundfile

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio import mpeg
from smalti.modalities.audio.kinds import decode

RATE = 16000
REFUSED = {"AVR", "HTK", "SVX", "MAT4", "MAT5", "MPC2K", "PAF", "PVF", "SD2", "SDS", "IRCAM", "WVE", "XI"}
"""Kinds of libsndfile that do not state their length, or of which the reader of libsndfile is wrong."""
BROKEN = {("AIFF", "DWVW_16"), ("AIFF", "DWVW_24")}
"""Encodings that libsndfile writes but cannot read to their end."""
LOSSY = {
    "PCM_S8": 35,
    "PCM_U8": 35,
    "DPCM_8": 35,
    "ULAW": 30,
    "ALAW": 30,
    "VORBIS": 15,
    "OPUS": 15,
    "IMA_ADPCM": 15,
    "MS_ADPCM": 15,
    "GSM610": 5,
    "G721_32": 15,
    "G723_24": 10,
    "G723_40": 15,
    "NMS_ADPCM_16": 5,
    "NMS_ADPCM_24": 10,
    "NMS_ADPCM_32": 15,
    "MPEG_LAYER_III": 15,
}
"""Least signal-to-noise ratio in dB; other encodings are exact to 16 bits."""

PYAV = (
    ("wav", "pcm_s16le", 0),
    ("wav", "pcm_s24le", 0),
    ("wav", "adpcm_ms", 15),
    ("ipod", "aac", 15),
    ("ipod", "alac", 0),
    ("mov", "pcm_s16be", 0),
    ("mp4", "libopus", 10),
    ("mp4", "flac", 0),
    ("adts", "aac", 15),
    ("ogg", "flac", 0),
    ("ogg", "libopus", 10),
    ("asf", "wmav2", 15),
    ("asf", "wmav1", 15),
    ("mp3", "libmp3lame", 15),
    ("mp2", "mp2", 15),
    ("tta", "tta", 35),
    ("wv", "wavpack", 35),
    ("matroska", "libopus", 10),
    ("matroska", "flac", 0),
    ("matroska", "pcm_s16le", 0),
    ("webm", "libopus", 10),
    ("caf", "alac", 0),
    ("aiff", "pcm_s16be", 0),
    ("au", "pcm_s16be", 0),
    ("flac", "flac", 0),
)
"""Containers and codecs that PyAV writes, with the least signal-to-noise ratio in dB; 0 for exact ones."""
SELF_FRAMED = {"adts", "mp2"}
"""Kinds without a header: cut at the end of a frame, they are whole."""


@cache
def wave() -> np.ndarray:
    """One second: a slow chirp whose pitch tells where it is."""
    at = np.arange(RATE) / RATE
    return (0.4 * np.sin(2 * np.pi * (200 + 150 * at) * at)).astype(np.float32)


@cache
def by_libsndfile(kind: str, subtype: str) -> bytes | None:
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, wave(), RATE, format=kind, subtype=subtype)
    except soundfile.SoundFileError:
        return None
    return buffer.getvalue()


@cache
def by_pyav(container: str, codec: str, layout: str = "mono", xing: bool = True) -> bytes:
    buffer = io.BytesIO()
    options = {} if xing else {"write_xing": "0"}
    with av.open(buffer, "w", format=container, options=options) as file:
        stream: Any = file.add_stream(codec, rate=RATE)
        stream.layout = layout
        if codec not in ("flac", "alac", "tta", "wavpack") and not codec.startswith("pcm"):
            stream.bit_rate = 64000
        if not xing:
            stream.options = {"q": "2"}
        stream.codec_context.open()
        channels = np.tile(wave(), (1 if layout == "mono" else 2, 1))
        frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = RATE, 0
        size = stream.codec_context.frame_size or None
        resampler = av.AudioResampler(stream.format, layout, stream.codec_context.sample_rate, size)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def snr_db(samples: np.ndarray, rate_hz: int = RATE) -> float:
    """Signal-to-noise ratio at the best delay: some codecs add samples before the sound, WMA drops some."""
    step = rate_hz / RATE
    expected = np.interp(np.arange(int(len(wave()) * step)) / step, np.arange(len(wave())), wave())
    size = 1 << 17
    spectra = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(expected, size))
    at = int(np.roll(np.fft.irfft(spectra, size), 1000)[:3500].argmax()) - 1000
    expected = expected[max(0, -at) :]
    part = samples[max(0, at) :][: len(expected)]
    expected = expected[: len(part)]
    gain = float(part @ expected / (expected @ expected))
    assert gain == pytest.approx(1, abs=0.15)
    return float(10 * np.log10((expected**2).sum() / max(1e-12, float(((part - expected) ** 2).sum()))))


def refusal(data: bytes) -> str | None:
    try:
        decode(data)
    except UnreadableItem as error:
        return str(error)
    return None


SUBTYPES = [
    (kind, subtype)
    for kind in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(kind)
    if kind != "RAW" and by_libsndfile(kind, subtype) is not None
]


@pytest.mark.parametrize(("kind", "subtype"), SUBTYPES)
def test_of_libsndfile(kind: str, subtype: str) -> None:
    data = by_libsndfile(kind, subtype)
    assert data is not None
    if kind in REFUSED or (kind, subtype) in BROKEN:
        assert refusal(data)
        return
    for count, content in ((1, data), (2, data + data)):
        samples, rate_hz = decode(content)
        # VOC stores the rate of 8-bit samples as a divisor of 1 MHz.
        assert rate_hz == RATE if kind != "VOC" else rate_hz == pytest.approx(RATE, rel=0.01)
        # Codecs of blocks fill up the last one.
        assert count * len(wave()) <= len(samples) <= count * (len(wave()) + 1024)
        for part in np.split(samples, count):
            assert snr_db(part) >= LOSSY.get(subtype, 80)
    for share in (0.3, 0.5, 0.9):
        assert refusal(data[: int(len(data) * share)])


@pytest.mark.parametrize(("container", "codec", "least_db"), PYAV)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_of_ffmpeg(container: str, codec: str, least_db: int, layout: str) -> None:
    if codec not in av.codec.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    data = by_pyav(container, codec, layout)
    samples, rate_hz = decode(data)
    length = len(samples) / rate_hz * RATE
    assert len(wave()) - 700 <= length <= len(wave()) + 2500
    assert snr_db(samples, rate_hz) >= (least_db or 80)
    if container != "wv":
        joined, _ = decode(data + data)
        np.testing.assert_array_equal(joined[: len(samples)], samples)
        assert len(joined) == 2 * len(samples)
    assert refusal(data + data) is None or container == "wv"
    for share in (0.3, 0.5, 0.9):
        assert refusal(data[: int(len(data) * share)]) or container in SELF_FRAMED


class TestMP3:
    """Their headers are often missing or wrong; the frames count."""

    def test_variable_bit_rate_without_a_header(self) -> None:
        samples, _ = decode(by_pyav("mp3", "libmp3lame", xing=False))
        assert len(wave()) <= len(samples) <= len(wave()) + 2500
        assert snr_db(samples) > 15

    def test_tags_anywhere(self) -> None:
        data = by_pyav("mp3", "libmp3lame")
        tag = b"ID3\x03\x00\x00" + bytes([0, 0, 1, 0]) + b"\xff\xfb\x90\x00" * 32
        ape = b"APETAGEX" + (2000).to_bytes(4, "little") + (40).to_bytes(4, "little") + bytes(16) + bytes(40)
        expected = decode(data)[0]
        for content in (tag + data, data + b"TAG" + b"\xff" * 125, tag + data + ape, bytes(700) + data):
            np.testing.assert_array_equal(decode(content)[0], expected)
        np.testing.assert_array_equal(decode(data + tag + data)[0], np.concatenate([expected, expected]))

    def test_damage_among_its_frames(self) -> None:
        data = bytearray(by_pyav("mp3", "libmp3lame"))
        begin = mpeg.pieces(bytes(data))[0].frames[20][0]
        data[begin : begin + 4] = bytes(range(1, 5))
        assert "damaged" in (refusal(bytes(data)) or "")
        del data[begin : begin + 500]
        assert "damaged" in (refusal(bytes(data)) or "")


def test_mp3_in_wav_is_refused() -> None:
    assert "MP3 inside a WAV file" in (refusal(by_pyav("wav", "libmp3lame")) or "")


def test_sounds_of_two_rates_in_one_file_are_refused() -> None:
    both = io.BytesIO()
    soundfile.write(both, wave(), 8000, format="FLAC")
    assert "8000 and 16000 Hz" in (refusal((by_libsndfile("FLAC", "PCM_16") or b"") + both.getvalue()) or "")
