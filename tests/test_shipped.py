"""Trained models in the package."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import smalti
from smalti.core.hub import SHIPPED
from tests.runs import command

MOST_BYTES = 20 * 2**20
NAMES = smalti.shipped()


def test_they_are_small():
    assert {"fashion-mnist", "letters", "speech-codec", "spoken-digits", "walks"} <= set(NAMES)
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_one_loads_and_encodes_its_own_decodings(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = smalti.load(name)
    num_codebooks, *grid = tokenizer.code_shape
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(tokenizer.autoencoder.num_codes, (1, num_codebooks, *grid), generator=generator)
    signal = tokenizer.decode_signals(codes)
    assert signal.shape[1:] == (tokenizer.autoencoder.signal.channels, *tokenizer.autoencoder.signal.size)
    assert torch.isfinite(signal).all()
    assert not tokenizer.trained.foreign_priors
    if tokenizer.learned is not None:
        assert tokenizer.sample_codes(1, seed=0).shape[:2] == codes.shape[:2]


@pytest.mark.parametrize("name", NAMES)
def test_its_files_hold_weights_in_bfloat16_and_no_data(name):
    files = {path.name for path in (SHIPPED / name).rglob("*") if path.is_file()}
    assert files <= {"README.md", "config.json", "model.safetensors", "unigram.json"}
    with safe_open(SHIPPED / name / "model.safetensors", "pt") as stored:
        names = list(stored.keys())
        types = {stored.get_slice(name).get_dtype() for name in names}
    assert "BF16" in types
    assert "F32" not in types
    config = json.loads((SHIPPED / name / "config.json").read_text())
    assert not {"data", "described"} & set(config)
    card = (SHIPPED / name / "README.md").read_text()
    assert re.search(r"`smalti (train|reproduce|demo) ", card), "the command that trained it"
    assert f"# {name}\n" in card


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch, trained):
    monkeypatch.chdir(tmp_path)
    Path("spoken-digits").symlink_to(trained)
    assert smalti.load("spoken-digits").fingerprint == smalti.load(trained).fingerprint


def test_rounding_keeps_the_priors_of_a_run(trained, tmp_path):
    run = smalti.load(trained).trained
    rounded = run.rounded(torch.bfloat16)
    assert rounded.fingerprint != run.fingerprint
    assert smalti.load(trained).fingerprint == run.fingerprint, "the original was changed"
    rounded.save(tmp_path / "small", torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = smalti.load(tmp_path / "small")
    assert again.fingerprint == rounded.fingerprint
    assert again.learned is not None
    sizes = [(path / "model.safetensors").stat().st_size for path in (tmp_path / "small", trained)]
    assert sizes[0] < 0.8 * sizes[1]


def test_training_begins_with_one(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(4):
        Image.new("L", (28, 28), 60 * index).save(folder / f"{index}.png")
    words = ["train", "fashion-mnist", "--data", folder, "--out", tmp_path / "run", "--from", "fashion-mnist"]
    settings = [
        "training.steps=1",
        "training.batch_size=2",
        "training.learning_rate=1e-12",
        "training.warmup_steps=0",
    ]
    result = command(*words, *settings, "--quiet")
    assert result.status == 0, result.err
    begun, own = (smalti.load(run).autoencoder.encoder for run in ("fashion-mnist", tmp_path / "run"))
    for one, other in zip(begun.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(other.float(), one.float(), atol=1e-6, rtol=0)
