"""Sizes are checked before anything is allocated: settings of strangers, and of a command line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError

import smalti
from smalti.app import sizes
from smalti.app.recipes import RECIPES, get_recipe
from smalti.core.building import MOST_MODULES, TooLarge, memory_bytes, plan, size_bytes
from smalti.core.errors import InputError
from smalti.core.priors import NETWORKS
from smalti.core.signals import SignalSpec
from smalti.encoders.log_mel import LogMelEncoderConfig
from smalti.quantizers.vq import VectorQuantizer
from smalti.training.loop import TrainingConfig
from tests.conformance.models import CASES, SPEC
from tests.memory import LargestTensor
from tests.runs import TINY

LONGEST_S = 20


def check_plan(build: Callable[[], torch.nn.Module]) -> None:
    planned = plan(build)
    assert planned is not None
    made = build()
    assert {name: each.shape for name, each in planned.state_dict().items()} == {
        name: each.shape for name, each in made.state_dict().items()
    }
    assert all(each.is_meta for each in planned.parameters())
    assert size_bytes(planned) == size_bytes(made)


@pytest.mark.parametrize("name", CASES)
def test_every_model_can_be_planned(name: str) -> None:
    check_plan(lambda: CASES[name].build(SPEC))


def test_every_network_can_be_planned() -> None:
    for kind, config in NETWORKS.kinds().items():
        num_codebooks = 5 if kind == "hierarchical_pixelcnn" else 1
        check_plan(lambda config=config, num=num_codebooks: cast("Any", config).tiny().build(7, num))


@pytest.mark.parametrize("name", RECIPES)
def test_the_model_of_every_recipe_can_be_planned(name: str) -> None:
    recipe = get_recipe(name)
    spec = recipe.data.build().spec
    planned = plan(lambda: recipe.model.build(spec))
    assert planned is not None
    assert 0 < size_bytes(planned) < memory_bytes()


@pytest.mark.parametrize("name", CASES)
def test_a_model_of_large_signals_is_built_without_one(name: str) -> None:
    large = SignalSpec(3, (8, 8 * 10**6))
    with LargestTensor() as made:
        model = CASES[name].build(large)
    assert model.signal == large
    assert 0 < made.nbytes < 2**20


def test_a_window_that_no_weights_are_compared_with_is_bounded() -> None:
    with pytest.raises(ValidationError):
        LogMelEncoderConfig(window=10**7, hop=160)
    with LargestTensor() as made:
        LogMelEncoderConfig(window=1 << 16, num_mels=1024).build(SignalSpec(1, (1600,)), 4)
    assert made.nbytes < 200 * 2**20


def test_too_many_modules_are_refused() -> None:
    def build() -> torch.nn.Module:
        return torch.nn.Sequential(*(torch.nn.ReLU() for _ in range(MOST_MODULES + 1)))

    with pytest.raises(TooLarge):
        plan(build)
    build()  # elsewhere there is no limit


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.quantizer.num_codes", 1_000_000_000),
        ("model.quantizer.num_codes", 10**18),
        ("model.quantizer.num_codebooks", 10**9),
        ("model.encoder.residual_blocks", 100_000),
        ("model.decoder.residual_channels", 10**8),
        ("model.encoder.strides", [1] * 100_000),
        ("model.likelihood.components", 10**9),
        ("data.size", [10**6, 10**6]),
        ("data.size", [10**12, 10**12]),
        ("model.quantizer", {"kind": "fsq", "levels": [1000, 1000, 1000, 1000]}),
        ("model.quantizer", {"kind": "fsq", "levels": [10**6] * 1000}),
    ],
)
def test_sizes_of_a_strangers_run_are_compared_with_its_weights(key: str, value: Any, run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    inner = config["recipe"]
    *path, last = key.split(".")
    for part in path:
        inner = inner[part]
    inner[last] = value
    (run / "config.json").write_text(json.dumps(config))
    begin = time.process_time()
    with pytest.raises(InputError):
        smalti.load(run, torch.device("cpu"))
    assert time.process_time() - begin < LONGEST_S


@pytest.mark.parametrize(
    ("key", "value"), [("layers", 100_000), ("channels", 10**7), ("kernel_size", 10**6 + 1)]
)
def test_sizes_of_a_strangers_prior_are_compared_with_its_weights(key: str, value: Any, run: Path) -> None:
    config = json.loads((run / "prior" / "config.json").read_text())
    config["recipe"]["network"][key] = value
    (run / "prior" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError):
        smalti.load(run, torch.device("cpu"))


def test_sizes_of_a_strangers_part_are_compared_with_its_weights(tmp_path: Path) -> None:
    VectorQuantizer(dim=4, num_codes=8).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for value in (16, 10**9, 10**18):
        config["settings"]["config"]["num_codes"] = value
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError):
            VectorQuantizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"format": 2, "kind": "autoencoder", "recipe": ' + b"[" * 500 + b"]" * 500 + b', "classes": []}',
        b"\xff\xfe{}",
        b'{"format": 2, "kind": "\\ud800", "recipe": {}, "classes": []}',
        b'{"format": 2, "kind": "autoencoder", "recipe": {}, "classes": ["\\udfff"]}',
        b'{"format": 1e999, "kind": []}',
        b'{"format": [], "kind": 3}',
        b"",
        b"null",
        b"1" * 10_000,
    ],
    ids=range(11),
)
def test_odd_metadata_gets_a_sentence(content: bytes, run: Path, tmp_path: Path) -> None:
    (run / "config.json").write_bytes(content)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "config.json").write_bytes(content)
    for load in (smalti.load, VectorQuantizer.from_pretrained):
        with pytest.raises(InputError) as caught:
            load(run if load is smalti.load else tmp_path / "part", torch.device("cpu"))
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 2000
        str(caught.value).encode()


@pytest.mark.parametrize("ranks", [1, 4])
def test_the_least_memory_of_a_training(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, gradient, two moments and average; frozen weights and their average; the batch."""

    def build() -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.Linear(3, 5, bias=False), torch.nn.Linear(2, 7, bias=False))
        model[1].requires_grad_(requires_grad=False)
        return model

    needed = (4 * 15 * (4 + 1) + 4 * 14 * 2 + 8 * 100) // ranks
    training = TrainingConfig(batch_size=8, weight_ema=0.9)
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sizes, "memory_bytes", lambda: needed)
    sizes.check_memory(build, training, lambda model: 100)
    monkeypatch.setattr(sizes, "memory_bytes", lambda: needed - 1)
    with pytest.raises(TooLarge):
        sizes.check_memory(build, training, lambda model: 100)


@pytest.mark.parametrize(
    "setting",
    ["num_codes=4000000 code_dim=1000000", "training.batch_size=1000000000", "encoder.residual_blocks=100000",
     "size=1000000", "size=1000000000000000000", "encoder.channels=10000000", "components=100000000"],
)  # fmt: skip
def test_sizes_on_the_command_line_are_bounded(
    setting: str, pictures: Path, tmp_path: Path, mistake: Callable[..., str]
) -> None:
    mistake("train", "image", "--data", pictures, "--out", tmp_path / "run", *TINY, *setting.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "setting", ["network.channels=10000000", "training.batch_size=1000000000", "layers=100000"]
)
def test_sizes_of_a_prior_on_the_command_line_are_bounded(
    setting: str, run: Path, mistake: Callable[..., str]
) -> None:
    mistake("train-prior", run, "--name", "other", "network.kind=gated_pixelcnn", setting)
    assert not (run / "prior-other").exists()
