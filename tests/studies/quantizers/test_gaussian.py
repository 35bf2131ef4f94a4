"""Comparison on Gaussian vectors: never below the Shannon bound, and near to k-means after training."""

import json
import os

import numpy as np
import pytest
import torch

from smalti.core.conditions import Batch
from smalti.quantizers.fsq import FSQ
from smalti.quantizers.vq import VectorQuantizer
from smalti.studies.quantizers import tasks
from smalti.studies.quantizers.bounds import gauss_markov_covariance
from smalti.studies.quantizers.vector_model import VectorAutoencoder
from smalti.studies.quantizers.vectors import COUNTED, TEST, TRAINING, GaussianConfig, Vectors
from smalti.studies.records import read_records
from tests import forked
from tests.runs import command

WORDS = ("compare", "vq,fsq", "--data", "gaussian", "--bits", "4", "--steps", "60", "--seeds", "2", "--quiet")
SETTINGS = (
    "num_test=2000",
    "num_counted=2000",
    "dimension=2",
    "correlation=0.5",
    "training.batch_size=64",
    "hidden=8",
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("gaussian") / "out"
    result = command(*WORDS, *SETTINGS, "--out", out)
    assert result.status == 0, result.err
    return out


def test_vectors_have_the_covariance_and_depend_on_stream_seed_and_step():
    vectors = Vectors(GaussianConfig(dimension=3, correlation=0.5))
    drawn = vectors.draw(40_000, TEST).squeeze(2).numpy()
    np.testing.assert_allclose(np.cov(drawn.T), gauss_markov_covariance(3, 0.5), atol=0.03)
    one = vectors.draw(2, TRAINING, seed=1, step=5)
    assert torch.equal(one, vectors.draw(2, TRAINING, seed=1, step=5))
    for other in ((TRAINING, 1, 6), (TRAINING, 2, 5), (COUNTED, 1, 5)):
        assert not torch.equal(one, vectors.draw(2, *other))


@pytest.mark.parametrize("quantizer", [FSQ((8, 8)), FSQ((4, 4, 4, 4)), VectorQuantizer(3, 8)])
def test_the_networks_begin_as_the_identity(quantizer):
    model = VectorAutoencoder(3, quantizer, hidden=8).eval()
    x = torch.randn(5, 3, 1, generator=torch.Generator().manual_seed(0))
    z = torch.zeros(5, quantizer.dim, 1)
    shared = min(3, quantizer.dim)
    z[:, :shared] = x[:, :shared]
    expected = quantizer(z)
    y = torch.zeros(5, 3, 1)
    y[:, :shared] = expected.latents[:, :shared]
    torch.testing.assert_close(model.reconstruct(model.encode(x)), y)
    loss = model.loss(Batch(x))
    torch.testing.assert_close(loss.total, (x - y).square().mean() + expected.loss)


def test_no_quantizer_is_below_the_bound(compared):
    records = read_records(compared / "records.jsonl")
    assert len(records) == 4
    for record in records:
        metrics = record["metrics"]
        assert record["bits"] == pytest.approx(4)
        assert metrics["bits_unigram"] <= 4.05
        assert metrics["above_shannon_db"] > 0
        assert metrics["shannon"] == pytest.approx(np.sqrt(1 - 0.25) * 2**-4)
        assert metrics["kmeans"] > metrics["shannon"]
    vq = [record["metrics"]["above_kmeans_db"] for record in records if record["quantizer"] == "vq"]
    assert max(vq) < 2


def test_references_are_in_the_tables_and_computed_once(compared):
    table = (compared / "table.md").read_text()
    assert "above Shannon, dB" in table
    known = json.loads((compared / "references.json").read_text())
    assert list(known) == ["16 codes"]
    assert known["16 codes"] == read_records(compared / "records.jsonl")[0]["metrics"]["kmeans"]


def test_processes_give_the_same_records(compared, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "CONTEXT", forked.CONTEXT)
    before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    result = command(
        *("fsq" if word == "vq,fsq" else word for word in WORDS),
        *SETTINGS,
        "--jobs",
        "2",
        "--out",
        tmp_path / "out",
    )
    assert result.status == 0, result.err
    assert (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == before
    assert steady(tmp_path / "out") == [each for each in steady(compared) if each["quantizer"] == "fsq"]


def steady(folder):
    """What equal seeds must give again: all but times and provenance."""
    return [
        {key: record[key] for key in ("quantizer", "seed", "search", "config", "bits")}
        | {name: value for name, value in record["metrics"].items() if not name.endswith("_ms")}
        for record in read_records(folder / "records.jsonl")
    ]


def test_mistakes_get_a_sentence(mistake, compared, tmp_path):
    def message(*words):
        return mistake("compare", *words, "--data", "gaussian", "--out", tmp_path / "out")

    assert "expected no --prior-steps" in message("vq", "--bits", "4", "--prior-steps", "3")
    assert "expected no --recipe" in message("vq", "--bits", "4", "--recipe", "letters")
    assert "correlation" in message("vq", "--bits", "4", "correlation=1")
    assert "uses can be counted" in message(f"kind=fsq levels={','.join(['8'] * 8)}")
    assert "choose another --out" in mistake(*WORDS, *SETTINGS[:-1], "--out", compared)
