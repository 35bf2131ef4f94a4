"""One way to codes: every command gives an item the same codes, alone or in a batch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.data.codes import read_codes
from smalti.data.loader import split_indices
from smalti.data.packed import read_packed
from smalti.data.padding import padded
from smalti.data.sources import open_source
from smalti.data.store import Store
from smalti.data.store_layout import Decoded
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.context import ContextEncoder
from smalti.encoders.conv import ConvEncoderConfig
from smalti.encoding import EncodedItem, encode_items, encode_signals
from smalti.modalities.audio import sounds as audio
from smalti.modalities.audio.modality import AudioConfig
from smalti.modalities.video import modality as video
from smalti.modalities.video.modality import VideoConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.studies.speech import phonemes as study
from smalti.tokenizer import Tokenizer, load
from tests import sounds, videos
from tests.runs import command
from tests.speech_runs import PhoneRun, SoundRun


def signal_of(tokenizer: Tokenizer, file: Path) -> torch.Tensor:
    levels = torch.from_numpy(tokenizer.modality.decode(file))[None]
    return padded(tokenizer.modality, tokenizer.modality.to_model(levels), tokenizer.autoencoder.strides)


@pytest.fixture(scope="module")
def strangers(units: PhoneRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training utterances, and those of a speaker that the run does not know."""
    folder = shutil.copytree(units.data, tmp_path_factory.mktemp("data") / "more")
    rng = np.random.default_rng(5)
    for take in range(3):
        wave, _ = sounds.utterance(rng, 16_000, 1.3)
        sounds.save(folder / "zoe" / f"z{take}", wave, sounds.KINDS[3])
    return folder


@pytest.fixture(scope="module")
def encoded(
    units: PhoneRun, strangers: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """Codes that `smalti encode` writes."""
    file = tmp_path_factory.mktemp("codes") / "codes.parquet"
    result = command("encode", units.path, "--data", strangers, "--out", file)
    assert result.status == 0, result.err
    return {
        name: row for names, codes, *_ in read_codes(file)[1] for name, row in zip(names, codes, strict=True)
    }


def test_a_known_speaker_has_the_voice_of_the_training_items(
    units: PhoneRun, encoded: dict[str, np.ndarray]
) -> None:
    tokenizer = load(units.path, "cpu")
    encoder = tokenizer.autoencoder.encoder
    assert isinstance(encoder, ContextEncoder)
    store = Store.open(units.path / "data")
    indices, _ = split_indices(store.count, tokenizer.recipe.validation_fraction)
    for label, speaker in enumerate(store.classes):
        own = [store.names[i] for i in indices if store.labels[i] == label]
        voice = encoder.voice.voice([signal_of(tokenizer, units.data / name)[0] for name in own])
        assert torch.equal(encoder.pooled[label], voice)
        name = f"{speaker}/{label}1.wav"
        signal = signal_of(tokenizer, units.data / name)
        codes = tokenizer.autoencoder.encode(signal, Conditions(voice=voice[None]))
        assert np.array_equal(encoded[name], codes[0])
        assert torch.equal(tokenizer.encode(units.data / name, class_name=speaker)[0], codes)


def test_an_unknown_speaker_has_the_voice_of_all_items_in_the_source(
    units: PhoneRun, strangers: Path, encoded: dict[str, np.ndarray]
) -> None:
    tokenizer = load(units.path, "cpu")
    encoder = tokenizer.autoencoder.encoder
    assert isinstance(encoder, ContextEncoder)
    files = sorted((strangers / "zoe").iterdir())
    signals = [signal_of(tokenizer, file) for file in files]
    together = encoder.voice.voice([signal[0] for signal in signals])
    for file, signal in zip(files, signals, strict=True):
        codes = tokenizer.autoencoder.encode(signal, Conditions(voice=together[None]))
        assert np.array_equal(encoded[f"zoe/{file.name}"], codes[0])
        # By itself a file is a source of its own.
        (alone,) = tokenizer.encode(file)
        own = Conditions(voice=encoder.voice.voice([signal[0]])[None])
        assert torch.equal(alone, tokenizer.autoencoder.encode(signal, own))


def test_encode_the_store_of_the_prior_and_phonemes_agree(
    units: PhoneRun,
    strangers: Path,
    encoded: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = shutil.copytree(units.path, tmp_path / "run")
    result = command("train-prior", run, *sounds.PRIOR, "--quiet")
    assert result.status == 0, result.err
    store = Store.open(run / "codes")
    assert store.count == 16
    for index, name in enumerate(store.names):
        assert np.array_equal(store.item(index), encoded[name]), name

    seen: dict[str, np.ndarray] = {}
    windows = study._windows

    def watched(utterances: Any, codes: Any, *others: Any) -> Any:
        seen.update({u.name: u.codes for u in utterances})
        return windows(utterances, codes, *others)

    monkeypatch.setattr(study, "_windows", watched)
    result = command("phonemes", run, "--data", strangers, "--alignments", units.alignments, "--quiet")
    assert result.status == 0, result.err
    assert len(seen) == 15  # all but the one without an alignment
    for name, codes in seen.items():
        assert np.array_equal(codes, encoded[name][0]), name

    # One file for each item holds the same, and so do the codes of the Python interface.
    result = command("encode", units.path, "--data", strangers, "--out", tmp_path / "codes", "--quiet")
    assert result.status == 0, result.err
    tokenizer = load(run, "cpu")
    items = list(tokenizer.encode_items(open_source(str(strangers), tokenizer.modality.extensions, None)))
    assert [item.name for item in items] == list(encoded)
    for item in items:
        file = tmp_path / "codes" / Path(item.name).with_suffix(".smc")
        assert np.array_equal(read_packed(file).codes, item.codes)
        assert np.array_equal(item.codes, encoded[item.name])
        assert item.label == Path(item.name).parent.name


def test_voices_are_saved_with_the_run(units: PhoneRun, tmp_path: Path) -> None:
    tokenizer = load(units.path, "cpu")
    tokenizer.save_pretrained(tmp_path / "saved")
    first, second = (one.autoencoder.encoder for one in (tokenizer, load(tmp_path / "saved", "cpu")))
    assert isinstance(first, ContextEncoder)
    assert isinstance(second, ContextEncoder)
    assert first.pooled.shape == (4, 1 + 2 * first.voice.num_mels)
    assert torch.equal(first.pooled, second.pooled)
    assert first.known(3) is not None
    assert first.known(4) is None
    assert first.known(-1) is None


def test_a_batch_of_recordings_gives_the_codes_of_each_alone(spoken: SoundRun, tmp_path: Path) -> None:
    """Lengths that differ, and lengths that are equal only once they are padded."""
    tokenizer = load(spoken.path, "cpu")
    stride = tokenizer.autoencoder.stride
    rng = np.random.default_rng(0)
    lengths = [5 * stride, 3 * stride, 5 * stride - 1, 7 * stride + 1, 3 * stride, 5 * stride - 7, 8 * stride]
    arrays = [rng.integers(0, 256, (1, length), dtype=np.uint8) for length in lengths]
    decoded = [Decoded(f"item {i}", array) for i, array in enumerate(arrays)]
    store = Store.write(tmp_path / "store", decoded, (1, None), np.uint8)
    done: list[tuple[int, int]] = []
    items = list(
        encode_items(
            tokenizer.autoencoder,
            tokenizer.modality,
            store,
            batch_size=2,
            progress=lambda *each: done.append(each),
        )
    )
    assert [item.name for item in items] == list(store.names)
    assert [item.length for item in items] == lengths
    assert done[-1] == (7, 7)
    for item, array in zip(items, arrays, strict=True):
        signal = tokenizer.modality.to_model(torch.from_numpy(array)[None])
        whole = padded(tokenizer.modality, signal, [stride])
        assert torch.equal(item.codes, tokenizer.autoencoder.encode(whole)[0])
        assert item.codes.shape[1] == -(-item.length // stride)
    some = encode_items(tokenizer.autoencoder, tokenizer.modality, store, indices=np.array([6, 1]))
    assert [torch.equal(a.codes, items[i].codes) for a, i in zip(some, (6, 1), strict=True)] == [True, True]


def test_models_of_a_bounded_receptive_field_encode_unequal_items_together(tmp_path: Path) -> None:
    modality = AudioConfig.tiny().build()
    model = VQVAEConfig(encoder=ConvEncoderConfig.tiny(), decoder=ConvDecoderConfig.tiny()).build(
        modality.spec
    )
    assert model.eval().receptive_field is not None
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (1, length), dtype=np.uint8) for length in (9000, 4, 1, 700, 2113)]
    decoded = [Decoded(f"item {i}", array) for i, array in enumerate(arrays)]
    store = Store.write(tmp_path / "store", decoded, (1, None), np.uint8)
    for batch_size in (1, 3, 64):
        items = list(encode_items(model, modality, store, batch_size=batch_size))
        for item, array in zip(items, arrays, strict=True):
            signal = modality.to_model(torch.from_numpy(array)[None])
            (alone,) = encode_signals(model, modality, [signal])
            assert torch.equal(item.codes, alone[0])
            assert torch.equal(item.codes, model.encode(padded(modality, signal, model.strides))[0])
            assert item.codes.shape == (1, -(-array.shape[1] // model.stride))


def test_long_files_are_encoded_while_they_are_read(
    spoken: SoundRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    modality = AudioConfig(sample_rate_hz=8000, length=64).build()
    model = VQVAEConfig(encoder=ConvEncoderConfig.tiny(), decoder=ConvDecoderConfig.tiny()).build(
        modality.spec
    )
    source = open_source(str(spoken.data), modality.extensions, None)
    found: list[tuple[list[EncodedItem], list[str]]] = []
    done: list[tuple[int, int]] = []
    for shortest in (1 << 40, 1):
        monkeypatch.setattr(audio, "LONG_BYTES", shortest)
        skipped: list[dict[str, str]] = []
        items = encode_items(
            model.eval(), modality, source, skipped=skipped, progress=lambda *each: done.append(each)
        )
        found.append((list(items), [entry["name"] for entry in skipped]))
    assert done[-1] == (25, 25)
    (at_once, skipped_at_once), (arrived, skipped_arrived) = found
    assert sorted(skipped_arrived) == sorted(skipped_at_once) == ["anna/empty.wav", "ben/cut.flac"]
    assert [item.name for item in arrived] == list(spoken.lengths)
    for one, other in zip(at_once, arrived, strict=True):
        assert (one.name, one.length, one.label) == (other.name, other.length, other.label)
        assert torch.equal(one.codes, other.codes)


@pytest.mark.parametrize("is_native", [False, True])
def test_long_clips_are_encoded_while_they_are_read(
    is_native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modality = VideoConfig(size=(8, 8), frames=4).build()
    encoder = ConvEncoderConfig(channels=8, residual_channels=4, strides=(2, 2), time_strides=(2, 1))
    model = VQVAEConfig(encoder=encoder, decoder=ConvDecoderConfig.tiny()).build(modality.spec).eval()
    modality = modality.native() if is_native else modality
    videos.save(tmp_path / "clip", videos.moving(41, 18, 21), videos.LOSSLESS)
    source = open_source(str(tmp_path), modality.extensions, None)
    monkeypatch.setattr(video, "LONG_BYTES", 1)
    (arrived,) = encode_items(model, modality, source)
    monkeypatch.setattr(type(modality), "blocks", lambda *_: None)
    (at_once,) = encode_items(model, modality, source)
    assert arrived.size == at_once.size == (41, *((18, 21) if is_native else (8, 8)))
    assert torch.equal(arrived.codes, at_once.codes)


def test_a_run_that_normalizes_over_recordings_cannot_be_streamed(spoken: SoundRun) -> None:
    with pytest.raises(InputError):
        load(spoken.path, "cpu").stream()


def test_unreadable_items_are_listed_and_left_out(spoken: SoundRun) -> None:
    tokenizer = load(spoken.path, "cpu")
    source = open_source(str(spoken.data), tokenizer.modality.extensions, None)
    skipped: list[dict[str, str]] = []
    items = list(tokenizer.encode_items(source, skipped=skipped))
    assert [item.name for item in items] == list(spoken.lengths)
    assert {entry["name"] for entry in skipped} == {"anna/empty.wav", "ben/cut.flac"}
    assert [item.length for item in items] == list(spoken.lengths.values())


def test_arrays_at_another_sample_rate_have_the_codes_of_their_file(spoken: SoundRun, tmp_path: Path) -> None:
    tokenizer = load(spoken.path, "cpu")
    wave = sounds.tone(np.random.default_rng(3), 0.2, 44_100, 300).astype(np.float32)
    file = tmp_path / "tone.wav"
    soundfile.write(file, wave, 44_100, subtype="FLOAT")
    (expected,) = tokenizer.encode(file)
    given = [wave, torch.from_numpy(wave)[None], file]
    for codes in tokenizer.encode(given, sample_rate=44_100):
        assert torch.equal(codes, expected)
    assert tokenizer.encode(wave)[0].shape[2] > expected.shape[2]
    (decoded,) = tokenizer.reconstruct(wave, sample_rate=44_100)
    assert decoded.shape == tokenizer.reconstruct(file)[0].shape
