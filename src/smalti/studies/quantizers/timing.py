"""Medians of the time of a training step and of encoding, in this process, with its threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from smalti.core.conditions import Batch
from smalti.core.models import Trainable
from smalti.training.checkpoints import RunDirectory
from smalti.training.engine import Engine
from smalti.training.loop import TrainingConfig, fit

UNTIMED, TIMED = 3, 20
"""Number of first calls, which compile and fill caches, and of measured calls."""


def step_ms(model: Trainable, batches: Callable[[int, int, int], Batch], config: TrainingConfig) -> float:
    """Median milliseconds of a training step; this trains the model further."""
    moments: list[float] = []

    def watch(step: int, values: dict[str, float]) -> None:
        _synchronize()
        moments.append(time.perf_counter())

    # Without validation and checkpoints, which belong to no single step.
    settings = config.model_copy(update={"steps": UNTIMED + TIMED, "checkpoint_every": 0, "trackers": ()})
    with TemporaryDirectory(prefix="smalti-") as scratch:
        fit(model, batches, settings, RunDirectory(Path(scratch)), Engine(config.precision), watch=watch)
    return 1000 * median(_differences(moments[UNTIMED - 1 :]))


def call_ms(call: Callable[[], object]) -> float:
    """Median milliseconds of a call."""
    moments: list[float] = []
    for _ in range(UNTIMED + TIMED):
        call()
        _synchronize()
        moments.append(time.perf_counter())
    return 1000 * median(_differences(moments[UNTIMED - 1 :]))


def _differences(moments: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(moments)]


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
