"""A command whose settings were wrong can be corrected: nothing that it left stands in the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import smalti as library
from smalti.core.errors import InputError
from smalti.data.fingerprints import fingerprints, read_fingerprints
from smalti.data.loader import split_indices
from smalti.data.store import Store
from smalti.quantizers.vq import VectorQuantizer
from smalti.training.checkpoints import RunDirectory
from tests.runs import TINY, TINY_PRIOR, digests

Smalti = Callable[..., Any]
Mistake = Callable[..., str]


@pytest.fixture
def begun(pictures: Path, tmp_path: Path, mistake: Mistake) -> Path:
    """A run that failed before its first checkpoint."""
    path = tmp_path / "begun"
    wrong = ("training.learning_rate=1e38", "training.checkpoint_every=0", "training.log_every=1")
    mistake("train", "image", "--data", pictures, "--out", path, *TINY, *wrong)
    assert RunDirectory(path).exists
    assert not RunDirectory(path).is_begun
    return path


def test_settings_of_a_run_without_a_checkpoint_can_be_corrected(
    begun: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    other = shutil.copytree(pictures, tmp_path / "more")
    # Also those of the data, which has been decoded by then.
    changed = ("size=8", "num_codes=8", "training.steps=2")
    result = smalti("train", "image", "--data", other, "--out", begun, *TINY, *changed, "--quiet")
    assert result.status == 0, result.err
    store = Store.open(begun / "data")
    training, _ = split_indices(store.count, 0.05)
    assert np.array_equal(read_fingerprints(begun), np.unique(fingerprints(store, training.tolist())))
    tokenizer = library.load(begun, torch.device("cpu"))
    assert (tokenizer.code_shape, tokenizer.classes) == ((1, 2, 2), ("cat", "dog"))
    assert json.loads((begun / "config.json").read_text())["data"] == str(other)


def test_settings_of_a_run_with_a_checkpoint_are_fixed(run: Path, pictures: Path, mistake: Mistake) -> None:
    before = digests(run)
    assert "num_codes" in mistake("train", "image", "--data", pictures, "--out", run, *TINY, "num_codes=8")
    assert digests(run) == before


def test_a_prior_that_cannot_model_the_codes_can_be_corrected(
    run: Path, smalti: Smalti, mistake: Mistake
) -> None:
    words = ("train-prior", run, "--name", "other")
    mistake(*words, "network.kind=hierarchical_pixelcnn")
    assert not (run / "prior-other" / "config.json").exists()
    result = smalti(*words, *TINY_PRIOR, "training.steps=2", "--quiet")
    assert result.status == 0, result.err


def test_a_prior_that_cannot_model_the_grid_is_refused_before_encoding(run: Path, mistake: Mistake) -> None:
    shutil.rmtree(run / "codes")
    assert "network.kind" in mistake("train-prior", run, "--name", "other", "network.kind=wavenet")
    assert not (run / "codes").exists()
    assert not (run / "prior-other").exists()


def test_a_length_of_the_codes_of_pictures_is_refused(run: Path, mistake: Mistake) -> None:
    assert "leave length out" in mistake("train-prior", run, "--name", "other", *TINY_PRIOR, "length=3")
    assert not (run / "prior-other" / "config.json").exists()


def test_a_model_is_not_saved_into_a_run(run: Path, begun: Path) -> None:
    tokenizer = library.load(run, torch.device("cpu"))
    for target in (run, begun, run / "prior"):
        before = digests(target)
        for save in (tokenizer.save_pretrained, VectorQuantizer(dim=4, num_codes=8).save_pretrained):
            with pytest.raises(InputError, match="training run"):
                save(target)
        assert digests(target) == before
    tokenizer.save_pretrained(run / "saved")
    assert library.load(run / "saved", torch.device("cpu")).fingerprint == tokenizer.fingerprint
