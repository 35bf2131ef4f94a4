"""Commands over a run with an own quantizer: with its plugin they work, without it they name it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import typer

import smalti as package
from smalti import recipe as smalti_recipe
from smalti.app.cli import add_commands, app
from smalti.core import plugins
from smalti.core.errors import UnknownKind
from smalti.core.parts import QUANTIZERS
from tests.examples import as_plugin
from tests.runs import TINY, TINY_PRIOR, Result

NAME = "own_quantizer"
SETTINGS = [*TINY, "model.quantizer.kind=sign", "bits=4"]

Smalti = Callable[..., Result]


@pytest.fixture
def forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    yield as_plugin(NAME, QUANTIZERS, tmp_path, monkeypatch)
    sys.modules.pop(NAME, None)


def assert_names_the_plugin(result: Result) -> None:
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    assert "'sign'" in result.err
    assert f"--plugin {NAME}" in result.err
    assert f"SMALTI_PLUGINS={NAME}" in result.err
    assert NAME not in sys.modules


def test_every_command_that_opens_a_run_takes_a_plugin() -> None:
    add_commands(app)
    group = cast("Any", typer.main.get_command(app))
    takes = {name: {each.name for each in command.params} for name, command in group.commands.items()}
    assert {name for name, parameters in takes.items() if "plugin" in parameters} == {
        name
        for name, parameters in takes.items()
        if "run" in parameters or name in ("train", "recipes", "compare", "serve")
    }


def test_a_run_with_an_own_quantizer_from_training_to_samples(
    forget: Callable[[], None], pictures: Path, smalti: Smalti, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ["train", "image", "--data", pictures, "--out", "run", *SETTINGS, "--quiet"]
    result = smalti(*train)
    assert result.status == 2
    assert "--plugin MODULE" in result.err
    assert smalti(*train, "--plugin", NAME) == Result(0, "", "")
    assert json.loads(Path("run/config.json").read_text())["plugins"] == [NAME]
    picture = next(pictures.rglob("*.png"))
    for words in (
        train,  # to resume it
        ["train-prior", "run", *TINY_PRIOR, "--quiet"],
        ["encode", "run", "--data", pictures, "--out", "codes.parquet", "--quiet"],
        ["decode", "run", "codes.parquet", "--out", "decoded", "--quiet"],
        ["evaluate", "run", "--data", pictures, "--json"],
        ["sample", "run", "--num", 2, "--out", "samples", "--quiet"],
        ["reconstruct", "run", picture, "--out", "again", "--quiet"],
        ["inspect", "run"],
    ):
        forget()
        assert_names_the_plugin(smalti(*words))
        result = smalti(*words, "--plugin", NAME)
        assert result.status == 0, (words, result.err)
        assert NAME in sys.modules
    assert "out of 16" in result.out  # 2^4 signs
    assert json.loads(Path("run/prior/config.json").read_text())["plugins"] == [NAME]
    assert len(list(Path("decoded").rglob("*.png"))) == 40
    assert len(list(Path("samples").glob("0*.png"))) == 2
    forget()
    monkeypatch.setenv(plugins.VARIABLE, NAME)
    assert smalti("inspect", "run").status == 0


def test_a_saved_model_names_its_plugin_too(
    forget: Callable[[], None], pictures: Path, smalti: Smalti
) -> None:
    words = ["train", "image", "--data", pictures, "--out", "run", *SETTINGS, "training.steps=1", "--quiet"]
    assert smalti(*words, "--plugin", NAME).status == 0
    package.load("run").save_pretrained("saved")
    forget()
    for place in ("run", "saved"):
        with pytest.raises(UnknownKind, match=f"import {NAME} first") as caught:
            package.load(place)
        assert (caught.value.family, caught.value.kind) == ("quantizer", "sign")
    importlib.import_module(NAME)
    assert package.load("saved").autoencoder.num_codes == 16


RECIPE = """
import smalti

@smalti.register_recipe({name!r})
def own() -> smalti.Recipe:
    "Pictures of a plugin."
    model = smalti.VQVAEConfig(quantizer={{"kind": "fsq", "levels": (3, 3)}})
    return {returned}
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Write a plugin with a recipe to a folder of its own; return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(smalti_recipe, "_REGISTERED", {})
    written = []

    def write(recipe: str = "own", returned: str = 'smalti.Recipe(name="own", model=model)') -> str:
        name = f"recipe_plugin_{len(written)}"
        (tmp_path / f"{name}.py").write_text(RECIPE.format(name=recipe, returned=returned))
        written.append(name)
        importlib.invalidate_caches()
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_a_recipe_of_a_plugin_is_listed_shown_and_trained(
    plugin: Callable[..., str], smalti: Smalti, pictures: Path
) -> None:
    name = plugin()
    assert "\nown " not in smalti("recipes").out
    assert "--plugin MODULE" in smalti("recipes", "own").err
    assert "\nown " in smalti("recipes", "--plugin", name).out
    shown = smalti("recipes", "own", "--plugin", name).out
    assert "model.quantizer.levels=3,3" in shown.splitlines()
    widths = [each for each in TINY if not each.startswith(("num_codes", "code_dim"))]
    words = ["train", "own", "--plugin", name, "--data", pictures, "--out", "run", *widths]
    assert smalti(*words, "training.steps=1", "--quiet") == Result(0, "", "")
    assert package.load("run").recipe.name == "own"


@pytest.mark.parametrize(
    ("recipe", "returned", "message"), [("image", "None", "'image'"), ("own", "None", "NoneType")]
)
def test_a_recipe_that_is_none_or_takes_a_name_is_refused(
    plugin: Callable[..., str], smalti: Smalti, recipe: str, returned: str, message: str
) -> None:
    result = smalti("recipes", recipe, "--plugin", plugin(recipe, returned))
    assert result.status == 2
    assert message in result.err


def test_two_recipes_of_one_name_are_refused(plugin: Callable[..., str], smalti: Smalti) -> None:
    first, second = plugin(), plugin()
    assert smalti("recipes", "--plugin", first).status == 0
    result = smalti("recipes", "--plugin", second)
    assert result.status == 2
    assert f"{first}.own" in result.err
