"""Signals that arrive in blocks: the codes of the whole, each as soon as it is determined."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.decoding import cropped
from smalti.encoders.conv import ConvEncoder
from smalti.encoders.log_mel import LogMelEncoder
from smalti.encoding import encode_signals
from smalti.modalities.audio.modality import AudioConfig
from smalti.modalities.audio.spectrogram import LogMelConfig
from smalti.modalities.image.modality import ImageConfig
from smalti.modalities.video import modality as video
from smalti.modalities.video.modality import VideoConfig
from smalti.models.vqvae import VQVAE
from smalti.streaming import EncodingStream, reconstructed_blocks
from tests import videos
from tests.bits import DIM, TINY, bits_model

SOUND = AudioConfig(sample_rate_hz=4000, length=66).build()
MELS = LogMelConfig(sample_rate_hz=4000, num_mels=8, hop=32, window=100, length=16, normalise="none").build()
CLIP = VideoConfig(size=(8, 8), frames=4).build()
WAVES = bits_model(ConvEncoder(1, DIM, 1, **TINY, strides=(2, 3)), SOUND.spec)
FRAMES = bits_model(ConvEncoder(8, DIM, 1, **TINY, strides=(2,)), MELS.spec)
CLIPS = bits_model(ConvEncoder(3, DIM, 3, **TINY, strides=(2, 2), time_strides=(2, 1)), CLIP.spec)


def whole(model: VQVAE, modality: Modality, signal: Tensor) -> Tensor:
    (codes,) = encode_signals(model, modality, modality.check(signal))
    return codes


def streamed(model: VQVAE, modality: Modality, signal: Tensor, blocks: list[int]) -> Tensor:
    """Codes of a signal that arrives in blocks of these sizes, repeated; checks when they are returned."""
    stream = EncodingStream(model, modality)
    span = model.stride * (32 if modality is MELS else 1)
    codes, begin, num = [], 0, 0
    while begin < signal.shape[1]:
        size = blocks[len(codes) % len(blocks)]
        codes.append(stream.push(signal[:, begin : begin + size]))
        begin = min(begin + size, signal.shape[1])
        num += codes[-1].shape[2]
        assert num == max(0, begin - stream.look_ahead) // span
    return torch.cat([*codes, stream.flush()], 2)


BLOCKS = st.lists(st.integers(0, 900), min_size=1, max_size=4).filter(lambda sizes: sizes[0] > 0)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6000), BLOCKS)
def test_a_stream_of_samples_has_the_codes_of_the_whole(length: int, blocks: list[int]) -> None:
    signal = torch.rand(1, length, generator=torch.Generator().manual_seed(length)) * 2 - 1
    made = streamed(WAVES, SOUND, signal, [8 * size for size in blocks] if length > 999 else blocks)
    assert torch.equal(made, whole(WAVES, SOUND, signal))


@settings(max_examples=15, deadline=None)
@given(st.integers(32, 20_000), BLOCKS)
def test_a_stream_of_spectrograms_has_the_codes_of_the_whole(length: int, blocks: list[int]) -> None:
    signal = torch.rand(1, length, generator=torch.Generator().manual_seed(length)) * 2 - 1
    made = streamed(FRAMES, MELS, signal, [8 * size for size in blocks] if length > 999 else blocks)
    assert torch.equal(made, whole(FRAMES, MELS, signal))


@settings(max_examples=5, deadline=None)
@given(
    st.integers(1, 60),
    st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(lambda sizes: sizes[0] > 0),
)
def test_a_stream_of_frames_has_the_codes_of_the_whole(length: int, blocks: list[int]) -> None:
    signal = torch.randint(0, 256, (3, length, 8, 8), dtype=torch.uint8)
    assert torch.equal(streamed(CLIPS, CLIP, signal, blocks), whole(CLIPS, CLIP, signal))


def test_the_memory_of_a_stream_does_not_grow() -> None:
    stream = EncodingStream(FRAMES, MELS)
    for _ in range(30):
        stream.push(torch.zeros(4000))
    assert stream._signal._samples.shape[-1] < 256 * 32 + 4200
    assert stream._codes._kept.shape[1] < 1000


@pytest.mark.parametrize("modality", [SOUND, MELS, CLIP], ids=["sound", "mels", "clip"])
@pytest.mark.parametrize("length", [40, 3001])
def test_a_signal_is_reconstructed_and_written_block_by_block(
    modality: Modality, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "write_clip", videos.write_pixels)
    model = {SOUND: WAVES, MELS: FRAMES, CLIP: CLIPS}[modality]
    torch.manual_seed(length)
    signal = torch.rand(1, length) * 2 - 1
    if modality is CLIP:
        signal = torch.randint(0, 256, (3, length // 40, 8, 8), dtype=torch.uint8)
    (checked,) = modality.check(signal)
    (codes,) = encode_signals(model, modality, [checked])
    (expected,) = cropped([model.decode(codes)], [checked.shape[2:]])
    modality.save(expected, tmp_path / f"whole{modality.ending}")
    blocks = list(reconstructed_blocks(model, modality, signal.split(700 if modality is not CLIP else 3, 1)))
    modality.save_blocks(blocks, tmp_path / f"blocks{modality.ending}")
    assert torch.equal(torch.cat(blocks, 2), expected)
    whole, written = (tmp_path / f"{name}{modality.ending}" for name in ("whole", "blocks"))
    assert whole.read_bytes() == written.read_bytes()


def test_what_cannot_be_streamed_is_refused() -> None:
    with pytest.raises(InputError):
        EncodingStream(bits_model(LogMelEncoder(DIM, hop=4, num_mels=4, window=100), SOUND.spec), SOUND)
    utterance = LogMelConfig.tiny().build()
    with pytest.raises(InputError):
        EncodingStream(FRAMES, utterance)
    with pytest.raises(InputError):
        EncodingStream(WAVES, ImageConfig(size=(8, 8)).build())


def test_bad_blocks_are_refused() -> None:
    for modality, model in ((SOUND, WAVES), (MELS, FRAMES)):
        stream = EncodingStream(model, modality)
        for bad in (torch.full((4,), 2.0), torch.zeros(2, 1, 4), [torch.zeros(3)] * 2, "sound.wav"):
            with pytest.raises(InputError):
                stream.push(bad)
        with pytest.raises(InputError):
            stream.flush()
        stream.push(torch.zeros(200))
        assert stream.flush().shape[2] > 0
        with pytest.raises(InputError):
            stream.push(torch.zeros(4))


def test_frames_of_another_size_are_refused_and_change_nothing() -> None:
    clips, frames = CLIP.native(), 2 * torch.rand(3, 8, 8, 8) - 1
    stream = EncodingStream(CLIPS, clips)
    parts = [stream.push(frames[:, :5])]
    with pytest.raises(InputError):
        stream.push(torch.zeros(3, 2, 8, 12))
    parts += [stream.push(frames[:, 5:]), stream.flush()]
    assert torch.equal(torch.cat(parts, 2), whole(CLIPS, clips, frames))
