"""A masked prior of a plugin, which has no density, through every command that uses priors."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import smalti as package
from smalti.app.recipes import get_recipe, override
from smalti.core.errors import InputError
from smalti.core.plugins import load_plugin
from smalti.core.weights import read_tensors
from smalti.priors.base import PRIORS, PriorConfig
from smalti.priors.uniform import UniformPrior
from smalti.recipe import Recipe, parse
from smalti.stored_priors import new_prior
from tests.examples import as_plugin
from tests.runs import TINY_PRIOR, Result

NAME = "own_prior"
PLUGIN = ("--plugin", NAME)
MASKED = [
    "channels=8",
    "layers=1",
    "kind=in-rounds",
    "rounds=3",
    "training.batch_size=8",
    "training.log_every=2",
    "training.checkpoint_every=2",
    "training.validate_every=2",
    "training.schedule=constant",
]

Smalti = Callable[..., Result]


@pytest.fixture
def forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Work in a folder with the example; calling this makes the process as if it had never loaded it."""
    yield as_plugin(NAME, PRIORS, tmp_path, monkeypatch)
    sys.modules.pop(NAME, None)


def test_from_training_to_samples(
    forget: Callable[[], None], run: Path, pictures: Path, smalti: Smalti, mistake: Callable[..., str]
) -> None:
    train = ["train-prior", run, *MASKED]
    assert "--plugin MODULE" in mistake(*train)
    # Stopped after two steps and resumed, it is the one of four steps without a stop.
    for name, steps in (("masked", 2), ("masked", 4), ("whole", 4)):
        result = smalti(*train, f"training.steps={steps}", "--name", name, *PLUGIN)
        assert result.status == 0
        assert f"smalti sample {run} --plugin {NAME} --prior {name} --num" in " ".join(result.err.split())
    resumed, whole = (read_tensors(run / f"prior-{name}/model.safetensors") for name in ("masked", "whole"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    log = [json.loads(line) for line in (run / "prior-masked/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "is_best" in line] == [2, 4]
    assert all(line["loss"] > 0 for line in log)

    sample = ["sample", run, "--prior", "masked", "--num", 2, "--out", "samples", "--quiet"]
    evaluate = ["evaluate", run, "--data", pictures]
    for words in (sample, evaluate, ["train-prior", run, "--name", "masked", *MASKED]):
        forget()
        assert f"--plugin {NAME}" in mistake(*words)
    plain = ["train-prior", run, "--name", "plain", *TINY_PRIOR, "training.steps=1", "--quiet"]
    assert smalti(*plain) == Result(0, "", "")
    assert (run / "prior-plain/figures/samples.png").is_file()
    shutil.rmtree(run / "prior-plain")
    assert smalti(*sample, *PLUGIN) == Result(0, "", "")
    assert len(list(Path("samples").glob("0*.png"))) == 2
    report = json.loads(smalti(*evaluate, "--json", *PLUGIN).out)
    assert list(report["bits_per_dim"]) == ["uniform", "unigram", "learned", "learned+class"]
    assert report["without_density"] == ["masked", "whole"]
    assert set(report["priors"]) == {"learned", "masked", "whole"}
    shown = smalti(*evaluate, "--quiet", *PLUGIN)
    assert "masked and whole have no density" in " ".join(shown.out.split())
    assert "masked" in smalti("inspect", run, *PLUGIN).out

    tokenizer = package.load(run, "cpu")
    codes = tokenizer.sample_codes(5, "cat", prior="masked", seed=0, batch_size=2)
    assert codes.shape == (5, *tokenizer.code_shape)
    images = tokenizer.sample(5, "cat", prior="masked", seed=0, batch_size=2)
    assert torch.equal(images, tokenizer.decode(codes))
    assert not torch.equal(tokenizer.sample_codes(5, "dog", prior="masked", seed=0, batch_size=2), codes)
    tokenizer.save_pretrained("saved")
    again = package.load("saved", "cpu")
    assert torch.equal(again.sample_codes(5, "cat", prior="masked", seed=0, batch_size=2), codes)

    # Another kind would train other weights.
    other = mistake(
        "train-prior", run, "--name", "masked", *TINY_PRIOR, "training.schedule=constant", *PLUGIN
    )
    assert "kind=in-rounds" in other
    assert "autoregressive" in other


@pytest.mark.usefixtures("forget")
def test_a_recipe_names_its_kind() -> None:
    load_plugin(NAME)
    recipe = override(
        get_recipe("image"), ["prior.kind=in-rounds", "prior.rounds=5", "prior.training.steps=9"]
    )
    assert (recipe.prior.model_dump()["rounds"], recipe.prior.training.steps) == (5, 9)
    assert parse(Recipe, recipe.model_dump(mode="json"), "here") == recipe


def test_a_config_that_builds_another_prior_is_refused(trained: Path) -> None:
    class WrongConfig(PriorConfig):
        kind: Literal["wrong"] = "wrong"

        def build(self, num_codes: int, num_codebooks: int, grid: Any, conditions: Any = None) -> Any:
            return UniformPrior(num_codes, num_codebooks, grid)

    with pytest.raises(InputError, match="UniformPrior"):
        new_prior(WrongConfig(), package.load(trained, "cpu").autoencoder)
