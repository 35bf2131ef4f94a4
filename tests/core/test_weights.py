"""Damaged, edited or foreign weights are refused; what is intact is read as it was written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import smalti
from smalti.core.errors import InputError
from smalti.core.weights import fingerprint, read_tensors, write_tensors
from smalti.quantizers.vq import VectorQuantizer
from smalti.training.checkpoints import RunDirectory

CPU = torch.device("cpu")


def flip(file: Path, share: float) -> None:
    """Flip a bit at a place of the tensors, which follow the header."""
    content = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header + int((len(content) - header - 1) * share)] ^= 1
    file.write_bytes(content)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    VectorQuantizer(dim=4, num_codes=8).eval().save_pretrained(tmp_path / "part")
    return tmp_path / "part"


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_flipped_bit_is_noticed(share: float, part: Path) -> None:
    flip(part / "model.safetensors", share)
    with pytest.raises(InputError, match="checksum"):
        VectorQuantizer.from_pretrained(part)


@pytest.mark.parametrize("place", ["model.safetensors", "prior/model.safetensors"])
def test_a_flipped_bit_in_a_run_is_noticed(place: str, run: Path) -> None:
    flip(run / place, 0.3)
    with pytest.raises(InputError, match="checksum"):
        smalti.load(run, CPU)


def test_a_flipped_bit_in_a_checkpoint_is_noticed(run: Path) -> None:
    (tensors,) = run.glob("state/*/tensors.safetensors")
    flip(tensors, 0.5)
    with pytest.raises(InputError, match="checksum"):
        RunDirectory(run).read_state()


def test_counts_of_codes_have_a_checksum(run: Path) -> None:
    stored = json.loads((run / "unigram.json").read_text())
    stored["counts"][0][0] += 1
    (run / "unigram.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="checksum"):
        smalti.load(run, CPU)


def test_a_file_without_a_checksum_is_read(trained: Path, run: Path) -> None:
    file = run / "model.safetensors"
    save_file(load_file(file), file)
    assert smalti.load(run, CPU).fingerprint == smalti.load(trained, CPU).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.index_fill(0, torch.tensor(0), float("nan")),
        lambda tensor: tensor.index_fill(0, torch.tensor(0), float("inf")),
        torch.Tensor.double,
        torch.Tensor.int,
        torch.Tensor.cfloat,
        lambda tensor: tensor.to(torch.float8_e4m3fn),
    ],
    ids=["nan", "inf", "float64", "int32", "complex64", "float8"],
)
def test_other_values_and_types_are_refused(change: Callable[[Any], Any], part: Path) -> None:
    file = part / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.ndim > 1)
    write_tensors({**tensors, name: change(tensors[name])}, file)
    with pytest.raises(InputError, match=name.replace(".", "[.]")):
        VectorQuantizer.from_pretrained(part)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_float32(dtype: torch.dtype, part: Path) -> None:
    file = part / "model.safetensors"
    tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in load_file(file).items()}
    write_tensors(tensors, file)
    for name, tensor in VectorQuantizer.from_pretrained(part).state_dict().items():
        assert torch.equal(tensor, tensors[name].to(tensor.dtype))
        assert tensor.dtype not in (torch.bfloat16, torch.float16)


def test_an_edited_model_is_saved_with_its_own_checksum(trained: Path, tmp_path: Path) -> None:
    tokenizer = smalti.load(
        trained,
        CPU,
    )
    before = tokenizer.fingerprint
    next(tokenizer.autoencoder.encoder.parameters()).data.mul_(2)
    with pytest.warns(UserWarning, match="priors"):
        tokenizer.save_pretrained(tmp_path / "edited")
    with pytest.warns(UserWarning, match="priors"):
        loaded = smalti.load(tmp_path / "edited", CPU)
    assert loaded.fingerprint == tokenizer.fingerprint != before


def test_there_is_one_fingerprint(trained: Path) -> None:
    """In memory, of the file, and of a file without a checksum."""
    tokenizer = smalti.load(trained, CPU)
    assert RunDirectory(trained).fingerprint() == tokenizer.fingerprint
    assert fingerprint(tokenizer.autoencoder) == tokenizer.fingerprint


def test_a_file_of_tensors_comes_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2).bfloat16(), "b": torch.arange(4), "c": torch.zeros(0, 3)}
    write_tensors(tensors, tmp_path / "x.safetensors")
    shutil.copy(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    loaded = read_tensors(tmp_path / "y.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert set(loaded) == set(tensors)
