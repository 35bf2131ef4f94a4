"""Settings as text: every one has a meaning, and its choices are those that it accepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import pytest
from pydantic import Field

from smalti.app.recipes import RECIPES, get_recipe
from smalti.app.settings import WIDTH, choices, described, meaning, settings
from smalti.core.conditioners import CONDITIONERS
from smalti.core.config import Configuration
from smalti.core.modality import MODALITIES
from smalti.core.models import MODELS
from smalti.core.parts import DECODERS, ENCODERS, LIKELIHOODS, QUANTIZERS
from smalti.core.priors import NETWORKS
from smalti.quantizers.codebooks.base import CODEBOOKS
from smalti.quantizers.estimators.base import ESTIMATORS

FAMILIES = (
    MODALITIES,
    MODELS,
    ENCODERS,
    DECODERS,
    QUANTIZERS,
    CODEBOOKS,
    ESTIMATORS,
    LIKELIHOODS,
    NETWORKS,
    CONDITIONERS,
)


def configs(config: Configuration) -> Iterator[type[Configuration]]:
    yield type(config)
    for name in type(config).model_fields:
        value = getattr(config, name)
        for each in value.values() if isinstance(value, dict) else [value]:
            if isinstance(each, Configuration):
                yield from configs(each)


def test_every_setting_has_a_meaning() -> None:
    known = {one for name in RECIPES for one in configs(get_recipe(name))}
    known |= {
        one for family in FAMILIES for one in family.kinds().values() if one.__module__.startswith("smalti.")
    }
    missing = [
        (one.__name__, name)
        for one in known
        for name in one.model_fields
        if name != "kind" and not meaning(one, name)
    ]
    assert missing == []


@pytest.mark.parametrize("name", ["image", "units"])
def test_a_recipe_shows_meanings_and_choices(name: str) -> None:
    recipe = get_recipe(name)
    lines = described(recipe)
    assert [line for line in lines if not line.startswith(" ")] == settings(recipe)
    assert all(len(line) <= WIDTH for line in lines if line.startswith(" "))
    below = lines[lines.index(next(line for line in lines if line.startswith("training.schedule="))) + 1 :]
    text = " ".join(line.strip() for line in below[:4])
    assert text.startswith('"constant" (as in the paper), or "cosine" decay')
    assert "[constant, cosine]" in text
    kind = lines[lines.index(next(line for line in lines if line.startswith("model.encoder.kind="))) + 1]
    assert all(each in " ".join(lines) for each in ENCODERS.kinds())
    assert kind.strip().startswith("[")


def test_choices_are_those_of_the_annotation() -> None:
    class Config(Configuration):
        steps: int = Field(default=1, ge=1)
        share: float = Field(default=0.5, gt=0, lt=1)
        is_on: bool = False
        mode: Literal["a", "b"] = "a"
        length: int | None = Field(default=None, ge=2)
        maybe: bool | None = None
        sides: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
        trackers: tuple[Literal["x", "y"], ...] = ()
        name: str = ""

    assert {name: choices(field) for name, field in Config.model_fields.items()} == {
        "steps": "at least 1",
        "share": "above 0 and below 1",
        "is_on": "true or false",
        "mode": "a, b",
        "length": "at least 2, or none",
        "maybe": "true or false, or none",
        "sides": "each at least 1",
        "trackers": "each x, y",
        "name": "",
    }
