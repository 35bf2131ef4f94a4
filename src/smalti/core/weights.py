"""Named tensors as safetensors files, and what identifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from smalti.core.errors import InputError


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a safetensors file; the same for equal tensors, wherever they are."""
    return save(_on_host(tensors))


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file, with the content of `to_bytes`."""
    save_file(_on_host(tensors), path)
    path.chmod(0o644)  # safetensors writes for its owner alone; a run is shared like any other file


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Clones, because safetensors refuses tensors that share storage.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: when it is missing or broken.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a complete safetensors file ({error}): restore it, or train anew"
        ) from None


def fingerprint(module: torch.nn.Module) -> str:
    """What identifies the weights in memory: the first 16 digits of the SHA-256 of their safetensors file."""
    return hashlib.sha256(to_bytes(module.state_dict())).hexdigest()[:16]


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Load weights into a module, shapes and names checked.

    Raises:
        InputError: when they do not fit.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InputError(
            f"the weights in {where} do not fit the model its config.json describes ({first})"
        ) from None
