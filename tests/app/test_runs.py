"""Resuming runs whose modality measures settings on the data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from smalti.app.runs import check_target, measured, resumed
from smalti.core.errors import InputError
from smalti.core.modality import MODALITIES, Modality, ModalityConfig
from smalti.modalities.arrays.modality import ArrayConfig
from smalti.recipe import Recipe
from smalti.training.checkpoints import RunDirectory


class LoudConfig(ModalityConfig):
    """A modality that measures under a name of its own."""

    measured_fields: ClassVar[tuple[str, ...]] = ("loudest",)

    kind: Literal["loud"] = "loud"
    loudest: float | None = None
    other: int = 0

    def build(self) -> Modality:
        raise NotImplementedError

    def measured(self, items: Iterable[np.ndarray]) -> LoudConfig:
        if self.loudest is not None:
            return self
        return self.model_copy(update={"loudest": max(float(item.max()) for item in items)})


ITEMS = [np.full((1, 4), value) for value in (0.0, 7.5)]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODALITIES, "_kinds", {**MODALITIES.kinds(), "loud": LoudConfig})


def recipe(data: Any) -> Recipe:
    return Recipe(name="loud", data=data)


def started(tmp_path: Path, data: Any) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.write_config({"kind": "autoencoder", "recipe": recipe(data).model_dump(mode="json")})
    run.model_path.touch()  # it has begun
    return run


def test_a_run_is_resumed_with_what_its_modality_measured(tmp_path: Path) -> None:
    begun = measured(recipe(LoudConfig()), ITEMS)
    assert begun.data == LoudConfig(loudest=7.5)
    run = started(tmp_path, begun.data)
    for again in (LoudConfig(), LoudConfig(loudest=7.5)):
        check_target(run, recipe(again))
        assert resumed(run, recipe(again)) == begun
    for other in (LoudConfig(loudest=0.0), LoudConfig(other=1)):
        with pytest.raises(InputError, match=r"data\.(loudest|other)"):
            check_target(run, recipe(other))


def test_values_that_were_given_are_kept_when_they_are_left_out(tmp_path: Path) -> None:
    run = started(tmp_path, ArrayConfig(channels=1, mean=(3.0,), scale=(2.0,)))
    same = recipe(ArrayConfig(channels=1))
    check_target(run, same)
    # They must not be measured in the middle of a run.
    data = measured(resumed(run, same), ITEMS).data
    assert isinstance(data, ArrayConfig)
    assert (data.mean, data.scale) == ((3.0,), (2.0,))


def test_a_modality_that_does_not_name_what_it_measures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoudConfig, "measured_fields", ())
    with pytest.raises(InputError, match="loudest"):
        measured(recipe(LoudConfig()), ITEMS)
