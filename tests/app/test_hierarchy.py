"""Pictures through two levels of codes: every verb, as of one level."""

import json

import numpy as np
import pytest
import torch

from smalti.data.codes import read_codes
from smalti.tokenizer import load
from tests.runs import TRAINING, WIDTHS, command, smooth

SETTINGS = [*TRAINING, *WIDTHS, "size=16", "num_codes=16", "code_dim=4", "validation_fraction=0.2"]
PRIOR = [
    *TRAINING,
    *(f"{level}.{width}" for level in ("coarsest", "finer") for width in ("channels=8", "layers=2")),
    "condition_channels=8",
    "condition_blocks=1",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for index in range(20):
        (folder / "ab"[index % 2]).mkdir(exist_ok=True)
        smooth(rng, 20, 20).save(folder / "ab"[index % 2] / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "levels"
    trained = command("train", "hierarchy", "--data", data, "--out", path, *SETTINGS)
    assert trained.status == 0, trained.err
    prior = command("train-prior", path, *PRIOR)
    assert prior.status == 0, prior.err
    return path


def test_codes_go_through_a_file_and_back(run, data, tmp_path):
    assert command("encode", run, "--data", data, "--out", tmp_path / "codes.parquet").status == 0
    info, batches = read_codes(tmp_path / "codes.parquet")
    assert (info.grid, info.num_codebooks) == ((2, 2), 5)
    codes = np.concatenate([batch.codes for batch in batches])
    assert command("decode", run, tmp_path / "codes.parquet", "--out", tmp_path / "decoded").status == 0
    tokenizer = load(run)
    assert tokenizer.decode(torch.from_numpy(codes)).shape == (20, 3, 16, 16)
    assert len(list((tmp_path / "decoded").rglob("*.png"))) == 20


def test_samples_are_drawn_level_by_level(run, tmp_path):
    words = ("sample", run, "--num", 3, "--class", "a", "--seed", 1)
    assert command(*words, "--out", tmp_path / "one").status == 0
    assert command(*words, "--out", tmp_path / "two").status == 0
    one, two = (next(read_codes(tmp_path / name / "codes.parquet")[1])[1] for name in ("one", "two"))
    assert one.shape == (3, 5, 2, 2)
    assert np.array_equal(one, two)


def test_it_is_evaluated_with_every_prior(run, data):
    result = command("evaluate", run, "--data", data)
    assert result.status == 0, result.err
    report = json.loads((run / "evaluation.json").read_text())
    assert set(report["bits_per_dim"]) >= {"uniform", "unigram", "learned"}
    assert "VQ-VAE of 2 levels" in report["title"]


def test_a_prior_of_other_factors_is_refused(run):
    result = command("train-prior", run, "--name", "other", *PRIOR, "factors=3")
    assert result.status == 2
    assert "set network.factors to those of the autoencoder" in result.err


def test_a_prior_of_levels_for_one_grid_is_refused(data, tmp_path):
    """Five codebooks of one grid are as many as two levels have."""
    run = tmp_path / "run"
    trained = command("train", "image", "--data", data, "--out", run, *SETTINGS, "num_codebooks=5")
    assert trained.status == 0, trained.err
    result = command("train-prior", run, "network.kind=hierarchical_pixelcnn")
    assert result.status == 2
    assert "expected a prior for one grid, received one for levels of factors (2,)" in result.err


def test_sizes_that_do_not_halve_are_refused(data, tmp_path):
    settings = [*SETTINGS, "size=20"]
    result = command("train", "hierarchy", "--data", data, "--out", tmp_path / "run", *settings)
    assert result.status == 2
    assert "multiples of" in result.err
