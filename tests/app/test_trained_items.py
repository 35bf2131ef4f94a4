"""`evaluate` recognises the items that a run was trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smalti.data.fingerprints import FILE
from tests.runs import TINY, Result, smooth

Smalti = Callable[..., Result]


def reported(smalti: Smalti, run: Path, data: Path) -> int | None:
    result = smalti("evaluate", run, "--data", data, "--json")
    assert result.status == 0
    return json.loads(result.out)["num_trained_on"]


@pytest.fixture
def unseen(tmp_path: Path) -> Path:
    """Three pictures that the run was not trained on."""
    folder = tmp_path / "unseen"
    folder.mkdir()
    rng = np.random.default_rng(99)
    for index in range(3):
        smooth(rng).save(folder / f"{index}.png")
    return folder


def test_items_of_the_training_data_are_counted(
    run: Path, pictures: Path, unseen: Path, smalti: Smalti, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert reported(smalti, run, unseen) == 0
    assert "trained on" not in smalti("inspect", run).out
    # Under another name, in another folder.
    shutil.copy(pictures / "cat" / "000.png", unseen / "copy.png")
    shown = smalti("evaluate", run, "--data", unseen, "--quiet").out
    assert "1 of these 4 items" in shown
    assert "1 trained on" in shown
    assert "4 items, 1 trained on" in smalti("inspect", run).out
    # Two of the 40 were held out for validation.
    assert reported(smalti, run, pictures) == 38


def test_a_run_without_fingerprints_does_not_know(run: Path, unseen: Path, smalti: Smalti) -> None:
    (run / FILE).unlink()
    assert reported(smalti, run, unseen) is None


def test_items_of_the_first_run_count_after_fine_tuning(
    trained: Path, pictures: Path, unseen: Path, tmp_path: Path, smalti: Smalti
) -> None:
    words = ["--out", tmp_path / "tuned", "--from", trained, "--quiet", *TINY, "training.steps=1"]
    result = smalti("train", "image", "--data", unseen, *words, "validation_fraction=0")
    assert result.status == 0, result.err
    assert reported(smalti, tmp_path / "tuned", unseen) == 3
    assert reported(smalti, tmp_path / "tuned", pictures) == 38
