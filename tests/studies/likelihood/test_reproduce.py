"""`smalti reproduce` at the tiny budget, through the real entry point."""

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.data.sources import Item, Source
from smalti.data.store import Store
from smalti.modalities.image.modality import ImageModality
from smalti.models.vae import VAEConfig
from smalti.models.vimco import VIMCOConfig
from smalti.quantizers.vq import VectorQuantizer
from smalti.studies.likelihood.recipes import CLASSES, CODEBOOKS, HUB_NAMES, PARTS, SCALES, study
from smalti.studies.records import bounds_table, read_records
from tests.runs import digests, smooth


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32x32 pictures in two classes, with a test split."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for split, num in (("train", 24), ("test", 8)):
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
    from smalti.studies.likelihood.reproduce import reproduce

    out = tmp_path_factory.mktemp("reproduced")
    records = reproduce("cifar10", str(data), out, budget="tiny", seeds=2, pretrain=str(other), quiet=True)
    return out / "cifar10-table-tiny", records


@pytest.mark.parametrize(
    ("name", "labels", "data", "expected"),
    [
        ("cifar10", CLASSES["cifar10"], "mine", True),
        ("fashion-mnist", [*CLASSES["fashion-mnist"][1:], "T - shirt / top"], "mine", True),
        ("fashion-mnist", list("abcdefghij"), "letters", False),
        ("cifar10", ["cat", "dog"], "pictures", False),
        ("cifar10", [None], HUB_NAMES["cifar10"], True),
    ],
)
def test_a_data_set_is_known_by_its_classes(name, labels, data, expected):
    from smalti.studies.likelihood.reproduce import _holds

    class Labelled(Source):
        description, splits = "labels", ("test",)

        def count(self, split):
            return len(labels)

        def items(self, split):
            return (Item(str(index), b"", label) for index, label in enumerate(labels))

    assert _holds(name, data, Labelled(), "test") is expected


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
        assert (record["split"], record["dataset"], record["budget"]) == ("test", "pictures", "tiny")
        assert str(folder.parent.parent) not in json.dumps(record)
        learned = record["prior"].startswith(("learned", "transformer"))
        first, tuned, *of_prior = record["stages"]
        # Of 12 and of 24 items one in fifty is held out, and at least one.
        assert (first["items"], tuned["items"]) == (11, 23)
        assert first["data"] == "folder (all 12)"
        assert tuned["data"] == "folder (train 24, test 8)"
        assert [stage["prior"] for stage in of_prior] == ([record["prior"].split("+")[0]] if learned else [])
        assert record["steps"] == 4 * len(record["stages"])
        assert record["commit"] == tuned["commit"] != "unknown"
        kind = "transformer" if record["prior"].startswith("transformer") else "gated_pixelcnn"
        assert record["config"]["prior"]["network"]["kind"] == kind
        assert record["config"]["training"]["seed"] == record["seed"]


def test_records_are_what_was_measured(table):
    folder, records = table
    report = json.loads((folder / "vae-seed1" / "evaluation.json").read_text())
    record = next(r for r in records if (r["entry"], r["prior"], r["seed"]) == ("vae", "normal", 1))
    assert record["metrics"]["bits_per_dim"] == report["bits_per_dim"]["normal"]["bits_per_dim"]
    assert record["metrics"]["num"] == 8
    for r in records:
        if "swaps" not in r["metrics"]:
            metrics = r["metrics"]
            assert metrics["rate"] + metrics["distortion"] == pytest.approx(metrics["bits_per_dim"])
            assert 0 < metrics["bits_per_dim"] < 20


@pytest.mark.parametrize("config", [VAEConfig, VIMCOConfig])
def test_swaps_are_for_models_with_a_codebook_whatever_their_name(config, tmp_path, monkeypatch):
    from smalti.studies.likelihood import reproduce

    model = config.tiny().build(SignalSpec(3, (8, 8)))
    monkeypatch.setattr(reproduce.TrainedModel, "load", lambda run: SimpleNamespace(model=model, priors={}))
    chosen = study("cifar10", "table", "tiny")
    entry = chosen.entries[0].model_copy(update={"name": "vqvae, but not one"})
    unused = object.__new__(Store)
    assert list(reproduce._swaps(chosen, entry, tmp_path, unused)) == []


def test_swaps_only_lower_the_bound(table):
    swaps = [r for r in table[1] if "swaps" in r["metrics"]]
    assert {r["prior"] for r in swaps} == {"uniform", "unigram", "learned", "transformer"}
    for record in swaps:
        bits = record["metrics"]["swaps"]
        assert len(bits) == 5
        assert bits == sorted(bits, reverse=True)


def test_the_paper_has_figures_of_its_data_set_only(table):
    folder, records = table
    bounds = [record for record in records if "swaps" not in record["metrics"]]
    _, rows = bounds_table(bounds, study("cifar10", "table", "tiny").paper)
    lines = {tuple(row[:3]): row for row in rows}
    assert lines["vqvae", "VQ-VAE, ema codebook", "uniform"][-1] == "4.67"
    assert lines["vae", "VAE", "normal"][-1] == "4.51"
    assert lines["vimco", "VIMCO, 3 samples", "uniform, 5 draws"][-1] == "5.14"
    assert "4.67" not in (folder / "table.md").read_text()


def test_the_table_says_what_was_trained(table):
    text = (table[0] / "table.md").read_text()
    assert any("(2 seeds)" in line and "| VAE | normal |" in line for line in text.splitlines())
    trained = "4 steps of 8 on 11 items of folder (all 12), then 4 steps of 8 on 23 items of folder"
    assert f"vae: {trained}" in text
    assert "4 steps of 8 on the codes (transformer)" in text
    assert "8 items of the test split (folder (train 24, test 8)), budget tiny" in text


def test_what_is_finished_is_not_done_again(table, data, other):
    from smalti.studies.likelihood.reproduce import reproduce

    folder, records = table
    before = digests(folder)
    again = reproduce(
        "cifar10", str(data), folder.parent, budget="tiny", seeds=2, pretrain=str(other), quiet=True
    )
    assert [r["metrics"] for r in again] == [r["metrics"] for r in records]
    assert digests(folder) == before


def test_other_data_or_settings_are_not_mixed_with_a_finished_run(table, data, other, tmp_path):
    from smalti.studies.likelihood.reproduce import reproduce

    settings = {"budget": "tiny", "pretrain": str(other), "only": "vae", "quiet": True}
    copied = shutil.copytree(data, tmp_path / "copied")
    with pytest.raises(InputError, match="holds a run on the data"):
        reproduce("cifar10", str(copied), table[0].parent, **settings)
    with pytest.raises(InputError, match="began from"):
        reproduce("cifar10", str(data), table[0].parent, **{**settings, "pretrain": None})


def test_a_kill_before_the_codes_are_counted_is_made_good(data, tmp_path):
    from smalti.studies.likelihood.reproduce import reproduce

    settings = {"part": "beta", "budget": "tiny", "only": "beta=0.1", "quiet": True}
    records = reproduce("cifar10", str(data), tmp_path, **settings)
    (tmp_path / "cifar10-beta-tiny" / "beta_0.1-seed0" / "unigram.json").unlink()
    again = reproduce("cifar10", str(data), tmp_path, **settings)
    assert [r["metrics"] for r in again] == [r["metrics"] for r in records]
    assert (tmp_path / "cifar10-beta-tiny" / "beta_0.1-seed0" / "unigram.json").is_file()


def test_a_sweep_through_the_command(smalti, data, tmp_path):
    words = ("--part", "likelihood", "--budget", "tiny", "--out", tmp_path)
    result = smalti("reproduce", "cifar10", "--data", data, *words)
    assert result.status == 0, result.err
    made = study("cifar10", "likelihood", "tiny")
    records = read_records(tmp_path / f"{made.name}-tiny" / "records.jsonl")
    assert {r["entry"] for r in records} == {entry.name for entry in made.entries}
    assert {r["prior"] for r in records} == {"uniform", "unigram"}
    assert made.question in " ".join(result.out.split())
    assert (tmp_path / f"{made.name}-tiny" / "reconstructions.png").is_file()


@pytest.mark.parametrize(("name", "budget"), [(name, budget) for name in SCALES for budget in SCALES[name]])
@pytest.mark.parametrize("part", PARTS)
def test_the_models_of_every_study_differ_and_can_be_built(name, part, budget):
    entries = study(name, part, budget).entries
    assert len({entry.name for entry in entries}) == len(entries)
    configs = [entry.recipe.model for entry in entries]
    assert all(one != other for one, other in itertools.combinations(configs, 2))
    with torch.device("meta"):
        for entry in entries:
            entry.recipe.model.build(ImageModality(entry.recipe.data).spec)


def test_one_model_at_a_time_gives_the_records_of_all(smalti, data, tmp_path):
    for only in ("beta=0.1", "beta=2.0"):
        words = ("--part", "beta", "--budget", "tiny", "--only", only, "--out", tmp_path, "--quiet")
        assert smalti("reproduce", "fashion-mnist", "--data", _grey(tmp_path), *words).status == 0
    records = read_records(tmp_path / "fashion-mnist-beta-tiny" / "records.jsonl")
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
    def message(*words: object) -> str:
        return mistake("reproduce", *words, "--out", tmp_path)

    assert "expected a data set to reproduce, received 'mnist'" in message("mnist", "--data", data)
    assert "expected a part" in message("cifar10", "--data", data, "--part", "all")
    assert "expected a budget" in message("cifar10", "--data", data, "--budget", "gpu")
    assert "expected a budget" in message("fashion-mnist", "--data", data, "--budget", "cpu-long")
    assert "expected a model of cifar10-table, received 'gan'" in message(
        "cifar10", "--data", data, "--only", "gan"
    )
    assert "test split" in message("cifar10", "--data", pictures, "--budget", "tiny")
    for split in ("train", "test"):
        (tmp_path / "jpeg" / split).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "jpeg" / split / "a.jpg")
    assert "holds JPEG: pass it as --pretrain" in message("cifar10", "--data", tmp_path / "jpeg")


@pytest.mark.parametrize("name", SCALES)
def test_the_papers_budget_is_the_papers(name):
    entries = {entry.name: entry for entry in study(name, "table", "paper").entries}
    for model in ("vqvae", "vae"):
        training = entries[model].recipe.training
        assert (training.steps, training.batch_size, training.learning_rate) == (250_000, 128, 2e-4)
        assert (training.schedule, training.clip_norm, training.weight_ema) == ("constant", 0, 0)
    configs = {name: entry.recipe.model for name, entry in entries.items()}
    networks = [(config.encoder, config.decoder, config.likelihood) for config in configs.values()]
    assert networks.count(networks[0]) == len(networks)
    quantizer, vimco = configs["vqvae"].quantizer, configs["vimco"]
    assert (quantizer.codebook.kind, quantizer.commitment_weight) == ("gradient", 0.25)
    assert configs["vqvae, ema"].quantizer.codebook.kind == "ema"
    assert (quantizer.num_codebooks, quantizer.num_codes) == (vimco.num_codebooks, vimco.num_codes)
    assert vimco.num_samples == 50


def test_codebooks_that_are_compared_begin_alike():
    books = {}
    for name, config in CODEBOOKS.items():
        torch.manual_seed(0)
        books[name] = VectorQuantizer(num_codes=64, codebook=config).codebook.codes
    assert torch.equal(books["gradient"], books["ema"])
