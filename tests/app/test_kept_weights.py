"""Reports of a run on the weights that it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from smalti.app import runs
from smalti.app.commands.inspect import inspect
from smalti.app.runs import report_kept
from smalti.training.checkpoints import RunDirectory
from smalti.training.loop import TrainingConfig


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    notes: list[str] = []
    monkeypatch.setattr(runs, "note", lambda text, quiet: None if quiet else notes.append(text))
    return notes


def log(run: RunDirectory, *scores: float) -> None:
    lowest = float("inf")
    for step, score in enumerate(scores, 1):
        values = {"bits_per_code": score, "is_best": score < lowest}
        run.append_metrics({"step": 100 * step, "split": "validation", **values})
        run.append_metrics({"step": 100 * step, "split": "train", "bits_per_code": score / 2})
        lowest = min(lowest, score)


@pytest.mark.parametrize(
    ("scores", "numbers"),
    [
        ((5.9, 5.41, 5.8, 6.15), ["step 200", "5.41", "6.15", "step 400"]),
        ((-3.0, -5.0, -4.9), ["step 200", "-5", "-4.9", "step 300"]),
    ],
)
@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_run_says_when_it_began_to_overfit(
    tmp_path: Path, scores: tuple[float, ...], numbers: list[str], keep: str, said: list[str]
) -> None:
    log(RunDirectory(tmp_path), *scores)
    report_kept(RunDirectory(tmp_path), TrainingConfig(keep=keep), "bits_per_code", quiet=False)
    kept, overfitted = said
    assert all(number in kept for number in numbers)
    assert kept.startswith("The last weights are kept") == (keep == "last")
    assert "overfits from step 200" in overfitted


def test_a_small_rise_is_not_called_overfitting(tmp_path: Path, said: list[str]) -> None:
    log(RunDirectory(tmp_path), 5.0, 5.01)
    report_kept(RunDirectory(tmp_path), TrainingConfig(), "bits_per_code", quiet=False)
    assert len(said) == 1
    assert "step 100" in said[0]


@pytest.mark.parametrize("scores", [(), (5.0,), (5.0, 4.0)])
def test_a_run_whose_last_weights_are_the_best_says_nothing(
    tmp_path: Path, scores: tuple[float, ...], said: list[str]
) -> None:
    log(RunDirectory(tmp_path), *scores)
    report_kept(RunDirectory(tmp_path), TrainingConfig(), "bits_per_code", quiet=False)
    assert said == []


def test_both_stages_are_scored_on_validation_data(trained: Path) -> None:
    for run in (trained, trained / "prior"):
        assert [line["step"] for line in RunDirectory(run).metrics() if line.get("is_best")] == [10]


def test_inspect_names_the_step_of_the_weights(run: Path) -> None:
    directory = RunDirectory(run)
    assert "weights of step" not in inspect(str(run))
    directory.append_metrics({"step": 20, "split": "validation", "bits_per_dim": 9.0, "is_best": False})
    assert "step 20 of 10, weights of step 10" in inspect(str(run))
