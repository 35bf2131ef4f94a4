"""Settings from a command line: what is understood, what is refused, and what a change changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.app.recipes import RECIPES, get_recipe
from smalti.app.recipes.overrides import differences, override
from smalti.app.settings import settings
from smalti.autoregressive.transformer import TransformerConfig
from smalti.core.config import Configuration
from smalti.core.errors import InputError, UnknownKind
from smalti.models.vqvae import VQVAEConfig
from smalti.priors.autoregressive import AutoregressivePriorConfig
from smalti.priors.base import PRIORS, PriorConfig
from smalti.recipe import Recipe, parse

IMAGE = get_recipe("image")
KEYS = [line.partition("=")[0] for line in settings(IMAGE)]


def at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_that_is_shown_can_be_set(name: str) -> None:
    recipe = get_recipe(name)
    lines = settings(recipe)
    assert len(lines) > 40
    for line in lines:
        assert override(recipe, [line]) == recipe, line
    assert override(recipe, lines) == recipe


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("training.steps=7", "training.steps", 7),
        ("model.quantizer.num_codes=9", "model.quantizer.num_codes", 9),
        ("num_codes=9", "model.quantizer.num_codes", 9),
        ("quantizer.num_codes=9", "model.quantizer.num_codes", 9),
        ("training.learning_rate=1e-5", "training.learning_rate", 1e-5),
        ("data.channels=1", "data.channels", 1),
        ("size=32", "data.size", (32, 32)),
        ("size=48x32", "data.size", (48, 32)),
        ("size=48,32", "data.size", (48, 32)),
        ("strides=2,2,2", "model.encoder.strides", (2, 2, 2)),
        ("strides=[4, 2]", "model.encoder.strides", (4, 2)),
        ("strides=8", "model.encoder.strides", (8,)),
        ("training.trackers=tensorboard,wandb", "training.trackers", ("tensorboard", "wandb")),
        ("training.trackers=", "training.trackers", ()),
        ("training.schedule=constant", "training.schedule", "constant"),
        ("prior.network.layers=3", "prior.network.layers", 3),
    ],
)
def test_assignment(assignment: str, key: str, value: Any) -> None:
    changed = override(IMAGE, [assignment], leave_out=("prior",))
    assert at(changed, key) == value
    assert list(differences(IMAGE, changed)) in ([key], [])


def test_the_last_assignment_wins() -> None:
    assert override(IMAGE, ["training.steps=7", "training.steps=8"]).training.steps == 8


def test_another_member_of_a_union_brings_its_own_settings() -> None:
    fashion = get_recipe("fashion-mnist")
    gaussian = override(fashion, ["model.likelihood.kind=gaussian"])
    assert gaussian.model.likelihood.kind == "gaussian"
    gradient = override(fashion, ["codebook.kind=gradient"])
    assert gradient.model.quantizer.codebook.model_dump() == {"kind": "gradient"}
    back = override(gaussian, ["model.likelihood.kind=logistic_mixture", "components=4"])
    assert back.model.likelihood.model_dump() == {"kind": "logistic_mixture", "components": 4}


@pytest.mark.parametrize("kind", ["vae", "vimco"])
def test_another_kind_of_model_keeps_the_settings_that_both_have(kind: str) -> None:
    small = override(IMAGE, ["encoder.channels=5", "strides=4", "decoder.head_channels=6"])
    small = override(small, ["model.likelihood.kind=logistic_mixture", "components=3"])
    other = override(small, [f"model.kind={kind}"])
    assert other.model.kind == kind
    for part in ("encoder", "decoder", "likelihood"):
        assert getattr(other.model, part) == getattr(small.model, part)
    assert differences(small, other.model_copy(update={"model": small.model})) == {}
    # What only the other has is as it is by default, and may be set in the same line.
    settled = override(small, [f"model.kind={kind}", "encoder.channels=7"])
    assert settled.model.encoder == small.model.encoder.model_copy(update={"channels": 7})
    back = override(other, ["model.kind=vqvae"])
    assert back.model.encoder == small.model.encoder
    assert back.model.quantizer == VQVAEConfig().quantizer


def test_another_network_keeps_the_settings_that_both_have() -> None:
    prior = override(AutoregressivePriorConfig(), ["layers=3", "network.dropout=0.25", "network.channels=16"])
    other = override(prior, ["network.kind=transformer"])
    assert isinstance(other.network, TransformerConfig)
    shared = set(type(other.network).model_fields) & set(type(prior.network).model_fields) - {"kind"}
    assert "layers" in shared
    assert {key: getattr(other.network, key) for key in shared} == {
        key: getattr(prior.network, key) for key in shared
    }
    assert other.training == prior.training
    # 8 heads cannot share out 10 channels.
    unfit = override(override(prior, ["network.channels=10"]), ["network.kind=transformer"])
    assert unfit.network == other.network.model_copy(update={"channels": TransformerConfig().channels})


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> type[PriorConfig]:
    """A registered kind of prior, with a setting of another kind's and one without a default."""
    monkeypatch.setattr(PRIORS, "_kinds", dict(PRIORS.kinds()))

    @PRIORS.register
    class OwnConfig(PriorConfig):
        kind: Literal["own"] = "own"
        depth: int
        length: int | None = None

        def build(self, num_codes: Any, num_codebooks: Any, grid: Any, conditions: Any = None) -> Any:
            raise NotImplementedError

    return OwnConfig


@pytest.mark.parametrize("words", [["kind=own", "depth=3"], ["depth=3", "kind=own"]])
def test_a_prior_of_another_kind_keeps_its_training(own: type[PriorConfig], words: list[str]) -> None:
    prior = override(AutoregressivePriorConfig(), ["training.steps=7", "length=5", "layers=2"])
    other = override(prior, [*words, "training.batch_size=2"])
    assert type(other) is own
    assert other.model_dump() == {
        "training": {**prior.training.model_dump(), "batch_size": 2},
        "kind": "own",
        "depth": 3,
        "length": 5,
    }
    assert differences(prior, other)["kind"] == ("autoregressive", "own")
    back = override(other, ["kind=autoregressive"])
    assert back == prior.model_copy(
        update={"training": other.training, "network": AutoregressivePriorConfig().network}
    )
    recipe = override(IMAGE, ["prior.kind=own", "prior.depth=3"], leave_out=("prior",))
    assert recipe.prior == own.model_validate({"depth": 3, "training": IMAGE.prior.training})
    assert parse(Recipe, recipe.model_dump(mode="json"), "here") == recipe


def test_an_unknown_kind_of_prior() -> None:
    with pytest.raises(UnknownKind) as caught:
        override(AutoregressivePriorConfig(), ["kind=autoregresive"])
    assert (caught.value.family, caught.value.kind) == ("prior", "autoregresive")
    assert "did you mean autoregressive?" in str(caught.value)
    with pytest.raises(InputError, match=r"training\.steps: expected"):
        override(AutoregressivePriorConfig(), ["training.steps=0"])


def test_a_stored_prior_without_a_kind_is_autoregressive() -> None:
    stored = AutoregressivePriorConfig(length=3).model_dump(mode="json")
    assert stored.pop("kind") == "autoregressive"
    assert parse(PriorConfig, stored, "here") == AutoregressivePriorConfig(length=3)
    for path in Path(__file__).parents[3].glob("models/*/config.json"):
        values = json.loads(path.read_text())["recipe"]
        values["prior"].pop("kind", None)
        assert isinstance(parse(Recipe, values, str(path)).prior, AutoregressivePriorConfig)
    for values in (None, [], {"kind": 3}, {"kind": None}):
        with pytest.raises(InputError, match="prior"):
            parse(PriorConfig, values, "here")


def test_the_member_that_is_there_keeps_its_settings() -> None:
    fashion = get_recipe("fashion-mnist")
    few = override(fashion, ["components=2"])
    assert override(few, ["model.likelihood.kind=logistic_mixture"]) == few


@pytest.mark.parametrize(
    "words",
    [
        ("kind=embedding", "num_ids=4"),
        ("num_ids=4", "kind=embedding"),
        ("kind=cross_attention", "kind=embedding", "num_ids=4"),
    ],
)
@pytest.mark.parametrize("prefix", ["network.conditioners", "conditioners"])
def test_a_new_entry_of_a_dictionary_of_parts(words: tuple[str, ...], prefix: str) -> None:
    changed = override(AutoregressivePriorConfig(), [f"{prefix}.mood.{word}" for word in words])
    assert changed.network.model_dump()["conditioners"] == {
        "mood": {"kind": "embedding", "num_ids": 4, "dropout": 0.1}
    }
    assert override(AutoregressivePriorConfig(), settings(changed)) == changed
    assert override(changed, ["conditioners.mood.dropout=0"]).network != changed.network
    assert differences(AutoregressivePriorConfig(), changed)["network.conditioners.mood.num_ids"] == (None, 4)


def test_a_new_entry_of_a_dictionary_of_values() -> None:
    assert override(IMAGE, ["class_names.3=Dress"]).class_names == {"3": "Dress"}


@pytest.mark.parametrize("key", ["objective.terms.pitch", "terms.pitch"])
def test_an_entry_of_a_dictionary_is_left_out(key: str) -> None:
    recipe = get_recipe("speech-codec")
    changed = override(recipe, [f"{key}=none", "objective.terms.mel.weight=3"])
    assert list(changed.objective.terms) == ["mel"]
    assert changed.objective.terms["mel"].weight == 3
    assert override(recipe, [f"{key}=none", f"{key}.weight=2"]).objective.terms["pitch"].weight == 2
    for unknown in ("objective.terms.none=none", "pitch=none"):
        with pytest.raises((InputError, UnknownKind)):
            override(recipe, [unknown])


def test_left_out_keys_need_their_full_name() -> None:
    with pytest.raises(InputError, match="ambiguous"):
        override(IMAGE, ["network.kernel_size=3", "learning_rate=1"])
    assert override(IMAGE, ["learning_rate=1"], leave_out=("prior",)).training.learning_rate == 1
    with pytest.raises(InputError, match=r"unknown key 'layers'.*prior\.network\.layers"):
        override(IMAGE, ["layers=3"], leave_out=("prior",))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.stpes=5", "did you mean training.steps"),
        ("num_code=5", "did you mean model.quantizer.num_codes"),
        ("stpes=5", "did you mean training.steps"),
        ("channels=2", "ambiguous"),
        ("data.channels=2", "data.channels: expected 1 or 3, received 2"),
        ("zzz=5", "unknown key 'zzz'"),
        ("training=5", "unknown key 'training'"),
        ("training.steps.more=5", "unknown key"),
        ("training.steps=1.5", "training.steps: expected a whole number, received '1.5'"),
        ("training.steps=none", "received None"),
        ("validation_fraction=1", "validation_fraction: expected a number below 1, received"),
        ("strides=2,two", "model.encoder.strides.1"),
        ("strides=2,,2", "model.encoder.strides.1: expected a whole number, received ''"),
        ("strides=,", "model.encoder.strides: expected at least 1 values"),
        ("trackers=papyrus", "training.trackers.0: expected tensorboard or wandb, received"),
        ("kernel_size=4", "expected an odd kernel size, received 4"),
        ("training.schedule=cosin", "expected constant or cosine, received 'cosin': did you mean cosine?"),
        ("per_frame=maybe", "per_frame: expected true or false, received 'maybe'"),
        ("learning_rate=nan", "learning_rate: expected a number above 0"),
        ("codebook.kind=emma", "received 'emma': did you mean ema?"),
        ("model.kind=vqave", "did you mean vqvae"),
        ("latent_dim=5", "unknown key 'latent_dim'"),
        ("num_samples=5", "unknown key 'num_samples'"),
        (
            "conditioners.mood.kind=embedding",
            "model.decoder.conditioners.mood.num_ids: expected a value, received none",
        ),
        ("decoder.conditioners.mood.num_ids=4", "`kind`"),
        ("decoder.conditioners.mood.kind=embeding", "did you mean embedding"),
        ("decoder.mood.kind=embedding", "unknown key"),
    ],
)
def test_refusals(assignment: str, message: str) -> None:
    leave_out = () if "kernel" in assignment else ("prior",)
    key = assignment if "kernel" not in assignment else f"prior.network.{assignment}"
    with pytest.raises(InputError) as refused:
        override(IMAGE, [key], leave_out=leave_out)
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@given(steps=st.integers(), rate=st.floats(allow_nan=True))
def test_numbers_are_taken_within_their_range(steps: int, rate: float) -> None:
    def taken(assignment: str, key: str) -> Any:
        try:
            return at(override(IMAGE, [assignment]), key)
        except InputError:
            return None

    assert taken(f"training.steps={steps}", "training.steps") == (steps if steps >= 1 else None)
    assert taken(f"training.learning_rate={rate}", "training.learning_rate") == (rate if rate > 0 else None)


@given(key=st.sampled_from(KEYS) | st.text(), value=st.text())
def test_any_text_is_a_recipe_or_a_sentence(key: str, value: str) -> None:
    try:
        changed = override(IMAGE, [f"{key}={value}"])
    except InputError:
        return
    assert isinstance(changed, Recipe)
    assert parse(Recipe, changed.model_dump(mode="json"), "here") == changed


def test_differences_name_both_values() -> None:
    fashion = get_recipe("fashion-mnist")
    changed = override(fashion, ["training.steps=7", "model.likelihood.kind=categorical"])
    assert differences(fashion, fashion) == {}
    assert differences(fashion, changed) == {
        "training.steps": (12_000, 7),
        "model.likelihood.kind": ("logistic_mixture", "categorical"),
        "model.likelihood.components": (5, None),
    }


def test_stored_values_that_do_not_fit() -> None:
    class Small(Configuration):
        size: int

    assert parse(Small, {"size": 3}, "config.json") == Small(size=3)
    for values in ({}, {"size": "big"}, {"size": 3, "colour": 1}, None):
        with pytest.raises(InputError, match=r"config\.json does not describe a model of this version"):
            parse(Small, values, "config.json")
