"""The codec of a trained run: exact archives near their bound, in another process, and refusals."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch

from smalti.coding.archive import Archive
from smalti.coding.codec import Codec
from smalti.coding.files import Written, compress, restore, signal_of
from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.models import Autoencoder
from smalti.core.parts import DecoderConfig
from smalti.core.signals import Continuous, SignalSpec
from smalti.data.store import Store
from smalti.decoders.autoregressive import WaveNetDecoderConfig
from smalti.decoders.conv import ConvDecoderConfig
from smalti.evaluation.bounds import measure
from smalti.evaluation.evaluate import evaluate
from smalti.likelihoods.levels import to_levels
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig
from smalti.likelihoods.normal import NormalConfig
from smalti.modalities.audio.modality import AudioConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.tokenizer import Tokenizer
from tests.conformance.models import Case, everywhere, signals, uniform
from tests.conformance.models import trained as trained_model

PRIORS = pytest.mark.parametrize("prior", ["uniform", "unigram", "learned"])
MODES = pytest.mark.parametrize("lossless", [False, True])


@pytest.fixture(scope="module")
def tokenizer(trained: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(trained, "cpu")


@pytest.fixture(scope="module")
def store(trained: Path) -> Store:
    return Store.open(trained / "data")


def codec_of(tokenizer: Tokenizer, prior: str = "uniform", lossless: bool = True) -> Codec:
    return Codec(tokenizer.autoencoder, tokenizer.priors[prior], lossless)


def compressed(path: Path, tokenizer: Tokenizer, store: Store, codec: Codec) -> Written:
    return compress(path, codec, tokenizer.modality, store, tokenizer.trained.label_ids)


@PRIORS
@MODES
def test_items_come_back_at_the_size_of_the_bound(
    prior: str,
    lossless: bool,
    tokenizer: Tokenizer,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smalti.coding.codec.BLOCK", 16)
    codec, path = codec_of(tokenizer, prior, lossless), tmp_path / "a.sma"
    written = compressed(path, tokenizer, store, codec)
    assert (written.num, written.size) == (store.count, path.stat().st_size)
    pixels = np.stack([store.item(index) for index in range(store.count)])
    signal = tokenizer.modality.to_model(torch.from_numpy(pixels))
    result = evaluate(tokenizer.autoencoder, [tokenizer.priors[prior]], [Batch(signal)])
    row = result.density[prior]
    assert written.bits / written.dims == pytest.approx(
        row["bits_per_dim"] if lossless else row["rate"], rel=1e-3
    )
    codes = tokenizer.autoencoder.encode(signal)
    with Archive(path) as archive:
        codec.check(archive.info)
        assert 8 * sum(block.size for block in archive.blocks) == pytest.approx(
            written.bits, rel=0.01, abs=32 * len(archive.blocks)
        )
        restored = list(restore(archive, codec))
    assert [number for block in restored for number in block.numbers] == list(range(store.count))
    assert torch.equal(torch.cat([block.codes for block in restored]), codes)
    for block in restored:
        assert (block.levels is not None) == lossless
        if block.levels is not None:
            stored = tokenizer.modality.to_stored(signal_of(block.levels, tokenizer.modality))
            assert np.array_equal(stored.numpy(), pixels[block.numbers])


def test_single_items_are_decoded_from_their_block_only(
    tokenizer: Tokenizer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smalti.coding.codec.BLOCK", 16)
    codec, path = codec_of(tokenizer), tmp_path / "a.sma"
    compressed(path, tokenizer, store, codec)
    with Archive(path) as archive:
        read = []
        monkeypatch.setattr(
            Archive, "read", lambda self, index, own=Archive.read: read.append(index) or own(self, index)
        )
        chosen = archive.find([store.names[20], store.names[17]])
        assert chosen == [17, 20]
        assert [block.numbers for block in restore(archive, codec, chosen)] == [chosen]
        assert read == [1]


PROGRAM = """
import sys, torch
from smalti.coding.archive import Archive
from smalti.coding.codec import Codec
from smalti.coding.files import restore
from smalti.tokenizer import Tokenizer
run, path, prior = sys.argv[1:]
torch.set_num_threads(2)
tokenizer = Tokenizer.from_pretrained(run, "cpu")
codec = Codec(tokenizer.autoencoder, tokenizer.priors[prior], True)
with Archive(path) as archive:
    codec.check(archive.info)
    print(sum(int(block.levels.sum()) for block in restore(archive, codec)))
assert torch.get_num_threads() == 2
"""


def test_another_process_with_two_threads_decodes_the_same(
    trained: Path, tokenizer: Tokenizer, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "a.sma"
    compressed(path, tokenizer, store, codec_of(tokenizer, "learned"))
    total = sum(int(store.item(index).sum()) for index in range(store.count))
    command = [sys.executable, "-c", PROGRAM, str(trained), str(path), "learned"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert int(done.stdout) == total


def test_altered_content_is_noticed_even_with_the_right_checksum(tokenizer: Tokenizer, store: Store) -> None:
    codec = codec_of(tokenizer)
    signal = tokenizer.modality.to_model(torch.from_numpy(store.item(0)[None].copy()))
    coded = codec.encode(tokenizer.autoencoder.encode(signal), torch.from_numpy(store.item(0)[None]).long())
    grid, size = tokenizer.autoencoder.grid[0], 16
    codec.decode(coded.content, 1, grid, size, expected=coded.digest)
    for place in (0, len(coded.content) // 2):
        flipped = bytearray(coded.content)
        flipped[place] ^= 16
        with pytest.raises(InputError, match=r"digest|stream"):
            codec.decode(bytes(flipped), 1, grid, size, expected=coded.digest)
    wrong = ((1, 1 << 30, size), (1, grid, 1 << 30), (1, 0, size), (1, grid, size + 1), (1, grid + 1, size))
    for sizes in wrong:
        with pytest.raises(InputError, match="block"):
            codec.decode(coded.content, *sizes)


def test_other_models_priors_and_arithmetics_are_refused(tokenizer: Tokenizer) -> None:
    codec = codec_of(tokenizer, "learned")
    info = codec.info()
    codec.check(info)
    changes = {
        "model": "00",
        "prior": "uniform",
        "prior_model": "00",
        "arithmetic": "00",
        "software": {**info.software, "torch": "0"},
        "item_shape": (3, 8, 8),
        "lossless": False,
    }
    for name, value in changes.items():
        with pytest.raises(InputError):
            codec.check(info.model_copy(update={name: value}))


def test_a_package_that_is_not_installed_is_named_so(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version_without(package: str) -> str:
        if package == "numba":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr("smalti.coding.codec.version", version_without)
    assert codec_of(tokenizer).software["numba"] == "none"


def test_the_arithmetic_depends_on_the_weights_and_the_prior(tokenizer: Tokenizer) -> None:
    ours = [codec_of(tokenizer, prior).arithmetic for prior in ("uniform", "unigram", "learned")]
    assert len(set(ours)) == 3
    assert codec_of(tokenizer, "learned").arithmetic == ours[2]
    weight = next(tokenizer.priors["learned"].parameters())
    with torch.no_grad():
        before = weight.clone()
        weight.mul_(1.0001)
        try:
            assert codec_of(tokenizer, "learned").arithmetic != ours[2]
        finally:
            weight.copy_(before)


@everywhere(Autoencoder)
@torch.no_grad()
def test_every_model_codes_every_signal_exactly(case: Case, spec: SignalSpec) -> None:
    model = trained_model(case, spec)
    levels = to_levels(signals(spec), spec.levels)
    codec = Codec(model, uniform(model)[0], lossless=True)
    codec.check(codec.info())
    codes = model.encode(signals(spec))
    coded = codec.encode(codes, levels)
    sizes = (len(levels), model.grid[0], spec.size[0])
    decoded = codec.decode(coded.content, *sizes, expected=coded.digest)
    assert torch.equal(decoded[0], codes)
    assert torch.equal(decoded[1], levels)


@pytest.mark.parametrize("encoding", ["mu_law", "linear"])
@pytest.mark.parametrize("decoder", [ConvDecoderConfig.tiny(), WaveNetDecoderConfig.tiny()])
def test_sounds_of_any_length_come_back(encoding: str, decoder: DecoderConfig, tmp_path: Path) -> None:
    modality = AudioConfig(sample_rate_hz=4000, length=16, encoding=encoding).build()
    parts = {"likelihood": LogisticMixtureConfig(components=2), "decoder": decoder}
    torch.manual_seed(0)
    model = VQVAEConfig.tiny().changed(parts).build(modality.spec).eval()
    rng = np.random.default_rng(0)
    dtype = modality.spec.domain.dtype
    lengths = (9, 9, 16, 7)
    sounds = [rng.integers(modality.spec.levels, size=(1, length)).astype(dtype) for length in lengths]
    decoded = [(f"{index}.wav", sound, None) for index, sound in enumerate(sounds)]
    store = Store.write(tmp_path / "data", decoded, modality.stored_shape, dtype)
    codec = Codec(model, uniform(model)[0], lossless=True)
    written = compress(tmp_path / "a.sma", codec, modality, store)
    assert written.dims == sum(lengths)
    with Archive(tmp_path / "a.sma") as archive:
        codec.check(archive.info, is_ragged=True)
        assert [block.num for block in archive.blocks] == [2, 1, 1]
        for block in restore(archive, codec):
            stored = modality.to_stored(signal_of(block.levels, modality))
            for number, sound in zip(block.numbers, stored.numpy(), strict=True):
                assert np.array_equal(sound, sounds[number])


@torch.no_grad()
def test_labels_out_of_range_are_refused() -> None:
    spec = SignalSpec(1, (8,), levels=4)
    config = VQVAEConfig.tiny().changed({"decoder": ConvDecoderConfig.tiny().changed({"use_labels": True})})
    model = config.build(spec, {"label": 3}).eval()
    codec = Codec(model, uniform(model)[0], lossless=True)
    levels = to_levels(signals(spec, 2), spec.levels)
    sizes = (2, model.grid[0], 8)
    coded = codec.encode(model.encode(signals(spec, 2)), levels, [2, -1])
    found = codec.decode(coded.content, *sizes, [2, -1], coded.digest)[1]
    assert found is not None
    assert torch.equal(found, levels)
    for labels in ([3, -1], [-2, 0], [1 << 70, 0], [2]):
        with pytest.raises(InputError, match="labels"):
            codec.decode(coded.content, *sizes, labels, coded.digest)


@torch.no_grad()
def test_the_bound_has_the_cost_of_labels() -> None:
    spec = SignalSpec(1, (8,), levels=4)
    config = VQVAEConfig.tiny().changed({"decoder": ConvDecoderConfig.tiny().changed({"use_labels": True})})
    model = config.build(spec, {"label": 3}).eval()
    prior = uniform(model)[0]
    batch = Batch(signals(spec, 4), Conditions(label=torch.tensor([0, 2, -1, 1])))
    bound = measure(model, batch, [prior]).bounds["uniform"]
    codec = Codec(model, prior, lossless=True)
    coded = codec.encode(model.encode(batch.data), to_levels(batch.data, spec.levels), [0, 2, -1, 1])
    assert coded.code_bits == pytest.approx(float(bound.rate.sum()) / math.log(2), rel=1e-3)
    assert coded.bits == pytest.approx(float((bound.rate + bound.distortion).sum()) / math.log(2), rel=1e-3)


def test_an_item_too_large_to_be_read_again_is_refused(
    tokenizer: Tokenizer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smalti.coding.codec.MOST_VALUES", 100)
    with pytest.raises(InputError, match="block"):
        compressed(tmp_path / "a.sma", tokenizer, store, codec_of(tokenizer))
    assert list(tmp_path.iterdir()) == []


def test_continuous_data_is_refused() -> None:
    spec = SignalSpec(1, (8,), domain=Continuous())
    model = VQVAEConfig.tiny().changed({"likelihood": NormalConfig()}).build(spec)
    Codec(model, uniform(model)[0])
    with pytest.raises(InputError, match="levels"):
        Codec(model, uniform(model)[0], lossless=True)
