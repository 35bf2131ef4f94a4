"""`smalti reproduce` at the tiny budget, through the real entry point."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.modalities.image import ImageModality
from smalti.recipes import build_model
from smalti.recipes.studies import BUDGETS, PARTS, SCALES, study
from smalti.verbs.records import read_records
from tests.runs import digests, smooth


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32x32 pictures in two classes, with a test split."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for split, num in (("train", 24), ("test", 20)):
        for index in range(num):
            path = folder / split / ("cat", "dog")[index % 2] / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            smooth(rng, 32, 32).save(path)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Further pictures, to train on first."""
    folder = tmp_path_factory.mktemp("data") / "other"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(12):
        smooth(rng, 32, 32).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def table(data, other, tmp_path_factory):
    """The finished table, with two seeds and data to train on first."""
    from smalti.verbs.reproduce import reproduce

    out = tmp_path_factory.mktemp("reproduced")
    records = reproduce("cifar10", str(data), out, budget="tiny", seeds=2, pretrain=str(other), quiet=True)
    return out / "cifar10-table", records


def test_every_model_and_prior_has_its_records(table):
    folder, records = table
    rows = {(r["entry"], r["prior"], r["seed"]) for r in records if "swaps" not in r["metrics"]}
    priors = ("uniform", "unigram", "learned", "learned+class", "transformer", "transformer+class")
    expected = {("vqvae", prior, seed) for prior in priors for seed in (0, 1)}
    expected |= {("vae", prior, seed) for prior in ("normal", "normal, 5 draws") for seed in (0, 1)}
    expected |= {("vimco", f"{prior}{draws}", 0) for prior in priors[:2] for draws in ("", ", 5 draws")}
    assert rows == expected
    assert read_records(folder / "records.jsonl") == records
    for record in records:
        assert record["split"] == "test"
        assert record["dataset"] == "CIFAR-10"
        assert record["note"].endswith("4 steps on 12 items, then 4 steps on 24 items")
        assert str(folder) not in json.dumps(record)
        learned = record["prior"].startswith(("learned", "transformer")) and "swaps" not in record["metrics"]
        assert record["steps"] == (12 if learned else 8 if "swaps" not in record["metrics"] else 4)


def test_records_are_what_was_measured(table):
    folder, records = table
    report = json.loads((folder / "vae-seed1" / "evaluation.json").read_text())
    record = next(r for r in records if (r["entry"], r["prior"], r["seed"]) == ("vae", "normal", 1))
    assert record["metrics"]["bits_per_dim"] == report["bits_per_dim"]["normal"]["bits_per_dim"]
    assert record["metrics"]["num"] == 20
    for r in records:
        if "swaps" not in r["metrics"]:
            metrics = r["metrics"]
            assert metrics["rate"] + metrics["distortion"] == pytest.approx(metrics["bits_per_dim"])
            assert 0 < metrics["bits_per_dim"] < 20


def test_swaps_only_lower_the_bound(table):
    swaps = [r for r in table[1] if "swaps" in r["metrics"]]
    assert {r["prior"] for r in swaps} == {"uniform", "unigram", "learned", "transformer"}
    for record in swaps:
        bits = record["metrics"]["swaps"]
        assert len(bits) == 5
        assert bits == sorted(bits, reverse=True)


def test_the_table_has_the_papers_figures_and_says_what_was_trained(table):
    text = (table[0] / "table.md").read_text()
    lines = {
        tuple(cell.strip() for cell in line.split("|"))[1:4]: line
        for line in text.splitlines()
        if "|" in line
    }
    assert lines["vqvae", "VQ-VAE, robust codebook", "uniform"].rstrip(" |").endswith("4.67")
    assert lines["vae", "VAE", "normal"].rstrip(" |").endswith("4.51")
    assert lines["vimco", "VIMCO, 3 samples", "uniform, 5 draws"].rstrip(" |").endswith("5.14")
    assert "(2 seeds)" in lines["vae", "VAE", "normal"]
    assert "vae: 4 steps on 12 items, then 4 steps on 24 items" in text
    assert "20 items of the split test" in text


def test_what_is_finished_is_not_done_again(table, data, other):
    from smalti.verbs.reproduce import reproduce

    folder, records = table
    before = digests(folder)
    again = reproduce(
        "cifar10", str(data), folder.parent, budget="tiny", seeds=2, pretrain=str(other), quiet=True
    )
    assert [r["metrics"] for r in again] == [r["metrics"] for r in records]
    assert {name for name, digest in digests(folder).items() if before.get(name) != digest} <= {
        "records.jsonl",
        "table.md",
    }


def test_a_sweep_through_the_command(smalti, data, tmp_path):
    words = ("--part", "likelihood", "--budget", "tiny", "--out", tmp_path)
    result = smalti("reproduce", "cifar10", "--data", data, *words)
    assert result.status == 0, result.err
    made = study("cifar10", "likelihood", "tiny")
    records = read_records(tmp_path / made.name / "records.jsonl")
    assert {r["entry"] for r in records} == {entry.name for entry in made.entries}
    assert {r["prior"] for r in records} == {"uniform", "unigram"}
    assert made.question in " ".join(result.out.split())
    assert (tmp_path / made.name / "reconstructions.png").is_file()


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", SCALES)
def test_the_models_of_every_study_differ_and_can_be_built(name, part, budget):
    entries = study(name, part, budget).entries
    assert len({entry.name for entry in entries}) == len(entries)
    configs = [entry.recipe.model for entry in entries]
    assert all(one != other for one, other in itertools.combinations(configs, 2))
    with torch.device("meta"):
        for entry in entries:
            build_model(entry.recipe.model, ImageModality(entry.recipe.data).spec)


def test_one_model_at_a_time_gives_the_records_of_all(smalti, data, tmp_path):
    for only in ("beta=0.1", "beta=2.0"):
        words = ("--part", "beta", "--budget", "tiny", "--only", only, "--out", tmp_path, "--quiet")
        assert smalti("reproduce", "fashion-mnist", "--data", _grey(tmp_path), *words).status == 0
    records = read_records(tmp_path / "fashion-mnist-beta" / "records.jsonl")
    assert {r["entry"] for r in records} == {"beta=0.1", "beta=2.0"}


def _grey(folder: Path) -> Path:
    """28x28 grey pictures in splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for index in range(8):
            path = folder / "grey" / split / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(path)
    return folder / "grey"


def test_mistakes_get_a_sentence(mistake, data, tmp_path, pictures):
    def told(*words: object) -> str:
        return mistake("reproduce", *words, "--out", tmp_path)

    assert "expected a data set to reproduce, received 'mnist'" in told("mnist", "--data", data)
    assert "expected a part" in told("cifar10", "--data", data, "--part", "all")
    assert "expected a budget" in told("cifar10", "--data", data, "--budget", "gpu")
    assert "expected a model of cifar10-table, received 'gan'" in told(
        "cifar10", "--data", data, "--only", "gan"
    )
    assert "test split" in told("cifar10", "--data", pictures, "--budget", "tiny")


@pytest.mark.parametrize("name", SCALES)
def test_the_papers_budget_is_the_papers(name):
    entries = {entry.name: entry for entry in study(name, "table", "paper").entries}
    for model in ("vqvae", "vae"):
        training = entries[model].recipe.training
        assert (training.steps, training.batch_size, training.learning_rate) == (250_000, 128, 2e-4)
    networks = [
        (e.recipe.model.encoder, e.recipe.model.decoder, e.recipe.model.likelihood) for e in entries.values()
    ]
    assert networks.count(networks[0]) == 3
    quantizer, vimco = entries["vqvae"].recipe.model.quantizer, entries["vimco"].recipe.model
    assert (quantizer.num_codebooks, quantizer.num_codes) == (vimco.num_codebooks, vimco.num_codes)
    assert vimco.num_samples == 50
    assert math.isclose(entries["vqvae"].recipe.model.quantizer.commitment_weight, 0.25)
