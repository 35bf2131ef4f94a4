"""The weights with the lowest validation score are kept, through crashes, and the log marks them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from smalti.core.models import Trainable
from smalti.training.checkpoints import RunDirectory
from tests.training.test_loop import adam, assert_like_undisturbed, config, fails_at, trained

SCORES = {2: 5.0, 4: 1.0, 6: math.nan, 8: -math.inf, 10: 3.0, 12: 1.0}
"""By step; the lowest that counts is the first 1.0."""


def scored(model: Trainable) -> dict[str, float]:
    return {"psnr": 30.0, "loss": SCORES[model.trained_steps]}


def run(path: Path, *feed: Any, **settings: Any) -> dict[str, Tensor]:
    return trained(path, config(validate_every=2, **settings), *feed, validate=scored, score="loss")


@pytest.mark.parametrize(("keep", "step"), [("best", 4), ("last", 12)])
def test_the_weights_of_the_lowest_score_are_kept(tmp_path: Path, keep: str, step: int) -> None:
    tensors = run(tmp_path, keep=keep)
    np.testing.assert_allclose(tensors["w"].numpy(), adam(config())[step - 1], rtol=1e-4, atol=1e-6)
    assert tensors["seen"] == step
    marked = [line["step"] for line in RunDirectory(tmp_path).metrics() if line.get("is_best")]
    assert marked == [2, 4]


def test_the_best_average_is_kept(tmp_path: Path) -> None:
    decays = [min(0.6, (1 + step) / (10 + step)) for step in range(4)]
    average = np.zeros(3)
    for decay, w in zip(decays, adam(config()), strict=False):
        average = decay * average + (1 - decay) * w
    np.testing.assert_allclose(run(tmp_path, weight_ema=0.6)["w"].numpy(), average, rtol=1e-4, atol=1e-6)


def test_without_a_score_the_last_weights_are_kept(tmp_path: Path) -> None:
    tensors = trained(tmp_path, config(validate_every=2), validate=scored)
    assert tensors["seen"] == 12
    assert not any("is_best" in line for line in RunDirectory(tmp_path).metrics())


@pytest.mark.parametrize("crash", [3, 7, 11])
@pytest.mark.parametrize("settings", [{}, {"weight_ema": 0.6}, {"keep": "last"}])
def test_a_resumed_run_keeps_the_same_weights(tmp_path: Path, crash: int, settings: dict[str, Any]) -> None:
    run(tmp_path / "whole", **settings)
    with pytest.raises(RuntimeError):
        run(tmp_path / "broken", fails_at(crash, RuntimeError()), **settings)
    run(tmp_path / "broken", **settings)
    assert_like_undisturbed(tmp_path / "broken", tmp_path / "whole")


def test_more_steps_keep_the_best_of_all(tmp_path: Path) -> None:
    assert run(tmp_path, steps=6)["seen"] == 4
    assert run(tmp_path, steps=12)["seen"] == 4


@pytest.mark.parametrize(
    ("steps", "every", "interval"),
    [
        (100, None, 50),
        (1_000, None, 100),
        (3_000, None, 300),
        (100_000, None, 500),
        (1_000, 0, 0),
        (90, 7, 7),
    ],
)
def test_short_runs_validate_more_often(steps: int, every: int | None, interval: int) -> None:
    assert config(steps=steps, validate_every=every).validation_interval == interval
