"""Read, write and fingerprint named tensors as safetensors files."""

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
    """Return the content of a safetensors file; equal tensors give equal bytes, on any device."""
    return save(_on_host(tensors))


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file with the content of `to_bytes`."""
    save_file(_on_host(tensors), path)
    path.chmod(0o644)  # safetensors makes the file readable for its owner only


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Cloned, because safetensors refuses tensors that share storage.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: if the file is missing or broken.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a complete safetensors file ({error}): restore it, or train again"
        ) from None


def fingerprint(module: torch.nn.Module) -> str:
    """Identify the weights in memory by the first 16 digits of the SHA-256 of their safetensors file."""
    return hashlib.sha256(to_bytes(module.state_dict())).hexdigest()[:16]


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Load weights into a module, and check their names and shapes.

    Args:
        module: module to load into.
        tensors: weights by name.
        where: file or directory of the weights, for messages.

    Raises:
        InputError: if the weights do not fit the module.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InputError(
            f"the weights in {where} do not fit the model its config.json describes ({first})"
        ) from None
