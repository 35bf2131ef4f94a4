"""Time series with missing values, and volumes, through every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from smalti.tokenizer import load
from tests.runs import TRAINING, WIDTHS, Result, command

Smalti = Callable[..., Result]

SETTINGS = [*TRAINING, *WIDTHS, "num_codes=16", "code_dim=4", "validation_fraction=0.25"]
PRIOR = [*TRAINING, "network.channels=8", "network.layers=2", "network.heads=2"]
SERIES = ["data.channels=2", "data.length=16", "data.missing=mask"]
VOLUMES = ["data.length=none", "data.size=8x8x8"]
MEAN, SCALE = np.array([[50.0], [-3.0]]), np.array([[10.0], [0.1]])


def series(length: int, seed: int) -> np.ndarray:
    """Two channels of very different scales; channel 1 misses a stretch."""
    rng = np.random.default_rng(seed)
    phase = np.linspace(0, 6, length) + rng.uniform(0, 6)
    values = np.stack([np.sin(phase), np.cos(phase)]) * SCALE + MEAN
    values[1, 2:4] = np.nan
    return values


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run on each of the two kinds of data, with a prior; the data lies beside it."""
    root = tmp_path_factory.mktemp("arrays")
    for name, settings in (("series", SERIES), ("volumes", VOLUMES)):
        data = root / f"{name}-data"
        data.mkdir()
        for seed in range(8):
            if name == "series":
                np.save(data / f"{seed}.npy", series(18 + seed, seed))
            else:
                np.savez(data / f"{seed}.npz", np.random.default_rng(seed).integers(0, 9, (8, 8, 8)))
        np.save(data / "broken.npy", np.zeros((3, 3, 3, 3)))
        trained = command("train", "array", "--data", data, "--out", root / name, *SETTINGS, *settings)
        assert trained.status == 0, trained.err
        assert "broken.npy" in trained.err
        result = command("train-prior", root / name, *PRIOR, "--quiet")
        assert result.status == 0, result.err
    return {"series": root / "series", "volumes": root / "volumes"}


@pytest.mark.parametrize("name", ["series", "volumes"])
def test_scores_are_nats_of_standardised_data_and_never_bits(smalti: Smalti, runs: dict[str, Path], name):
    run = runs[name]
    measured = smalti("evaluate", run, "--data", f"{run}-data", "--json")
    assert measured.status == 0, measured.err
    report = json.loads(measured.out)
    row = report["nats_per_dim"]["learned"]
    assert row["nats_per_dim"] == pytest.approx(row["rate"] + row["distortion"])
    assert set(report["reconstruction"]) == {"mse", "mse_over_variance"}
    texts = [measured.out, (run / "metrics.jsonl").read_text(), smalti("inspect", run).out]
    shown = smalti("evaluate", run, "--data", f"{run}-data")
    assert "nats/dim" in shown.out
    for text in (*texts, shown.out):
        assert "bits_per_dim" not in text
        assert "bits/dim" not in text


def test_mean_and_scale_of_the_training_items_are_saved(runs: dict[str, Path]):
    recipe = json.loads((runs["series"] / "config.json").read_text())["recipe"]
    np.testing.assert_allclose(recipe["data"]["mean"], MEAN[:, 0], rtol=0.2)
    np.testing.assert_allclose(recipe["data"]["scale"], SCALE[:, 0] * 0.7, rtol=0.3)


@pytest.mark.parametrize("ending", ["table.parquet", "packed"])
@pytest.mark.parametrize("name", ["series", "volumes"])
def test_encode_and_decode_keep_shape_and_unit(smalti: Smalti, runs: dict[str, Path], name, ending, tmp_path):
    run = runs[name]
    encoded = smalti("encode", run, "--data", f"{run}-data", "--out", tmp_path / ending)
    assert encoded.status == 0, encoded.err
    decoded = smalti("decode", run, tmp_path / ending, "--out", tmp_path / "again")
    assert decoded.status == 0, decoded.err
    files = sorted((tmp_path / "again").glob("*.npy"))
    assert len(files) == 8
    for seed, file in enumerate(files):
        again = np.load(file)
        if name == "volumes":
            assert again.shape == (1, 8, 8, 8)
            assert -20 < again.min() < again.max() < 30
        else:
            whole = -(-(18 + seed) // 4) * 4
            assert again.shape == (2, 18 + seed if ending == "packed" else whole)
            assert np.all(np.abs(again - MEAN) < 8 * SCALE)


@pytest.mark.parametrize("name", ["series", "volumes"])
def test_samples_are_arrays(smalti: Smalti, runs: dict[str, Path], name, tmp_path):
    sampled = smalti("sample", runs[name], "--num", 3, "--out", tmp_path / "new")
    assert sampled.status == 0, sampled.err
    assert {np.load(file).shape[1:] for file in (tmp_path / "new").glob("*.npy")} == {
        (16,) if name == "series" else (8, 8, 8)
    }


def test_a_run_goes_on_with_the_scale_that_it_measured(smalti: Smalti, runs: dict[str, Path]):
    run = runs["series"]
    same = ["train", "array", "--data", f"{run}-data", "--out", run, *SETTINGS, *SERIES]
    assert smalti(*same).status == 0
    refused = smalti(*same, "data.mean=0,0", "data.scale=1,1")
    assert refused.status == 2
    assert "data.mean" in refused.err


def test_items_with_missing_values_are_refused_by_default(smalti: Smalti, runs: dict[str, Path], tmp_path):
    data = f"{runs['series']}-data"
    result = smalti("train", "array", "--data", data, "--out", tmp_path / "r", *SETTINGS, *SERIES[:2])
    assert result.status == 2
    assert "data.missing=mask" in result.err


def test_a_table_of_nested_lists_encodes_as_the_files_do(smalti: Smalti, runs: dict[str, Path], tmp_path):
    run = runs["series"]
    rows = [series(18 + seed, seed).tolist() for seed in range(8)]
    pq.write_table(pa.table({"values": rows}), tmp_path / "data.parquet")
    tokenizer = load(run)
    result = smalti("encode", run, "--data", tmp_path / "data.parquet", "--out", tmp_path / "c.parquet")
    assert result.status == 0, result.err
    codes = pq.read_table(tmp_path / "c.parquet")["codes"].to_pylist()
    for row, received in zip(rows, codes, strict=True):
        (expected,) = tokenizer.encode([np.array(row)])
        assert torch.equal(torch.tensor(received), expected.flatten())
