"""`torchrun` and `accelerate launch` give what one process gives, for both stages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smalti.app.commands.train import train
from smalti.app.commands.train_prior import train_prior
from tests import forked
from tests.runs import TINY, TINY_PRIOR, TRAINING, WIDTHS

EXAMPLES = Path(__file__).parents[2] / "examples"
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "smalti"],
    "accelerate launch": [
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes=2",
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--main_process_port=0",
        "-m",
        "smalti",
    ],
}


def on_two_ranks(*words: object, folder: Path | None = None) -> None:
    forked.run("-m", "smalti", *words, folder=folder, num_ranks=2)


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


SMALL = [*TINY, "size=8", "training.steps=4"]


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    path = tmp_path_factory.mktemp("runs") / "one"
    train("image", str(pictures), path, SMALL, quiet=True)
    return path


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_train(launcher: str, alone: Path, pictures: Path, tmp_path: Path) -> None:
    words = ["train", "image", "--data", pictures, "--out", tmp_path / "two", "--quiet", *SMALL]
    done = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher], *map(str, words)],
        env={**os.environ, **forked.ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_same_weights(alone, tmp_path / "two")


@pytest.mark.parametrize("kind", ["vae", "vimco"])
def test_train_a_model_that_draws(kind: str, pictures: Path, tmp_path: Path) -> None:
    """Each rank takes its share of the draws of the whole batch."""
    settings = ["size=16", *WIDTHS, f"model.kind={kind}", *TRAINING, "training.steps=4"]
    settings += {"vae": ["latent_dim=3"], "vimco": ["num_codes=16", "num_samples=3"]}[kind]
    words = ["train", "image", "--data", pictures, "--quiet"]
    train("image", str(pictures), tmp_path / "one", settings, quiet=True)
    on_two_ranks(*words, "--out", tmp_path / "two", *settings)
    assert_same_weights(tmp_path / "one", tmp_path / "two")


def test_every_rank_loads_the_plugin(pictures: Path, tmp_path: Path) -> None:
    settings = [*TINY, "training.steps=2", "model.quantizer.kind=sign", "bits=4"]
    words = ["train", "image", "--data", pictures, "--out", tmp_path / "two", "--quiet", *settings]
    on_two_ranks(*words, "--plugin", "own_quantizer", folder=EXAMPLES)
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert config["plugins"] == ["own_quantizer"]
    assert config["recipe"]["model"]["quantizer"] == {"kind": "sign", "bits": 4}
    assert (tmp_path / "two" / "model.safetensors").is_file()


def test_train_prior_hides_the_same_labels_and_learns_the_same_mirror_images(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["data"]["flip"] = True
    (run / "config.json").write_text(json.dumps(config))
    train_prior(run, TINY_PRIOR, name="one", quiet=True)
    on_two_ranks("train-prior", run, "--name", "two", "--quiet", *TINY_PRIOR)
    assert json.loads((run / "prior-two" / "config.json").read_text())["views"] == 2
    assert_same_weights(run / "prior-one", run / "prior-two")
