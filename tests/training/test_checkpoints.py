"""A run's files: read back as written, whole or not at all; damage is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from smalti.core.errors import InputError
from smalti.core.weights import load_weights
from smalti.training.checkpoints import FORMAT, RunDirectory, State

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b.c": torch.tensor(7), "empty": torch.zeros(0, 2)}


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def assert_equal(received: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert received.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(received[name], tensor)
        assert received[name].dtype == tensor.dtype


def test_config_comes_back_with_its_format(directory: RunDirectory) -> None:
    assert not directory.exists
    directory.write_config({"kind": "autoencoder", "classes": ["a", "ß"]})
    assert directory.exists
    assert directory.read_config("kind") == {"format": FORMAT, "kind": "autoencoder", "classes": ["a", "ß"]}
    with pytest.raises(InputError, match="'recipe'"):
        directory.read_config("kind", "recipe")


@pytest.mark.parametrize("format", [0, 3, 99, "2", None])
def test_other_formats_are_refused(directory: RunDirectory, format: object) -> None:
    directory.path.mkdir()
    directory.config_path.write_text(json.dumps({"format": format}))
    with pytest.raises(InputError, match=f"has format {format}, this version of smalti reads {FORMAT}"):
        directory.read_config()


def test_runs_of_smalti_0_1_are_refused(directory: RunDirectory) -> None:
    directory.path.mkdir()
    directory.config_path.write_text(json.dumps({"format": 1, "recipe": {}}))
    with pytest.raises(InputError, match=r"smalti 0\.1.*'smalti<0\.2'"):
        directory.read_config()


def test_model_comes_back_whatever_its_layout(directory: RunDirectory) -> None:
    shared = torch.arange(12.0).view(3, 4)
    tensors = {**TENSORS, "turned": shared.T, "part": shared[:, 1], "again": shared}
    directory.write_model(tensors)
    assert_equal(directory.read_model(), tensors)


def test_fingerprint_is_that_of_the_weights(directory: RunDirectory) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors"):
        directory.fingerprint()
    directory.write_model(TENSORS)
    first = directory.fingerprint()
    directory.write_model(TENSORS)
    assert directory.fingerprint() == first
    directory.write_model({**TENSORS, "b.c": torch.tensor(8)})
    assert directory.fingerprint() != first


def test_newest_state_is_the_only_one(directory: RunDirectory) -> None:
    assert directory.read_state() is None
    for step in (5, 10, 100):
        directory.write_state(State(step, step * 2, {**TENSORS, "b.c": torch.tensor(step)}))
        state = directory.read_state()
        assert state is not None
        assert (state.step, state.metrics_bytes) == (step, step * 2)
        assert_equal(state.tensors, {**TENSORS, "b.c": torch.tensor(step)})
    assert [path.name for path in (directory.path / "state").iterdir()] == ["step-000000100"]


def test_half_written_state_is_not_one(directory: RunDirectory) -> None:
    directory.write_state(State(5, 0, TENSORS))
    partial = directory.path / "state" / ".step-000000010.partial"
    partial.mkdir()
    (partial / "tensors.safetensors").write_bytes(b"half")
    state = directory.read_state()
    assert state is not None
    assert state.step == 5


@pytest.mark.parametrize(
    ("file", "content"),
    [("state.json", b"{"), ("state.json", b"{}"), ("tensors.safetensors", b"short"), ("state.json", None)],
)
def test_damaged_state_is_reported(directory: RunDirectory, file: str, content: bytes | None) -> None:
    directory.write_state(State(5, 0, TENSORS))
    path = directory.path / "state" / "step-000000005" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match="step-000000005"):
        directory.read_state()


def test_state_of_a_newer_version_is_refused(directory: RunDirectory) -> None:
    directory.write_state(State(5, 0, TENSORS))
    path = directory.path / "state" / "step-000000005" / "state.json"
    path.write_text(json.dumps({"format": FORMAT + 1, "place": 5}))
    with pytest.raises(InputError, match=r"has format 3, this version of smalti reads 2: upgrade"):
        directory.read_state()


def test_metrics_are_cut_back_to_a_checkpoint(directory: RunDirectory) -> None:
    assert directory.metrics() == []
    assert directory.metrics_bytes == 0
    directory.append_metrics({"step": 1})
    length = directory.metrics_bytes
    directory.append_metrics({"step": 2})
    assert [record["step"] for record in directory.metrics()] == [1, 2]
    directory.truncate_metrics(length)
    assert directory.metrics() == [{"step": 1}]
    directory.truncate_metrics(10_000)
    assert directory.metrics_bytes == length


@pytest.mark.parametrize("line", [b"{]", b"7", b'{"loss": 1}', b'{"step": "1"}', b"\xff", b"[" * 9999])
def test_damaged_metrics(line: bytes, directory: RunDirectory) -> None:
    directory.append_metrics({"step": 1})
    directory.metrics_path.write_bytes(directory.metrics_path.read_bytes() + line + b"\n")
    with pytest.raises(InputError, match="damaged"):
        directory.metrics()


def test_metrics_line_without_an_end_is_left_out(directory: RunDirectory) -> None:
    directory.append_metrics({"step": 1})
    with directory.metrics_path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert directory.metrics() == [{"step": 1}]


def test_weights_of_another_model_are_refused(directory: RunDirectory) -> None:
    model = nn.Linear(2, 3)
    load_weights(model, {"weight": torch.ones(3, 2), "bias": torch.ones(3)}, directory.path)
    assert torch.equal(model.weight, torch.ones(3, 2))
    for tensors in (
        {"weight": torch.ones(3, 2)},
        {"weight": torch.ones(2, 3), "bias": torch.ones(3)},
        {"weight": torch.ones(3, 2), "bias": torch.ones(3), "more": torch.ones(1)},
    ):
        with pytest.raises(InputError, match=r"do not fit the model its config\.json describes") as refused:
            load_weights(model, tensors, directory.path)
        assert "\n" not in str(refused.value)
