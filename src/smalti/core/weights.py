"""Read, write and fingerprint named tensors as safetensors files.

A file states the SHA-256 of its tensors in its metadata, so that a damaged or edited copy is noticed. Files
without it, such as those of other tools, are read unchecked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from smalti.core.errors import InputError

CHECKSUM = "sha256"
"""Key of a file's metadata: the digest of its tensors, hexadecimal."""
DECODING = ("decoder.", "family.")
"""Prefixes of a model's tensors on which its codes do not depend."""
NARROWER = {
    torch.float32: (torch.bfloat16, torch.float16),
    torch.float64: (torch.float32, torch.bfloat16, torch.float16),
}
"""Types that stored values may have in place of a module's; each is converted without rounding."""


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the safetensors file of some tensors without metadata; the same on any device."""
    return _hash(_on_host(tensors))


def fingerprint(module: torch.nn.Module) -> str:
    """Identify the weights in memory by the first 16 digits of their `digest`."""
    return short(digest(module.state_dict()))


def code_digest(module: torch.nn.Module) -> str:
    """Digest of a model's weights without those of its decoder and likelihood: it identifies its codes."""
    return digest(coding(module.state_dict()))


def with_same_codes(known: object, module: torch.nn.Module) -> tuple[str, ...]:
    """Fingerprints of the models whose codes a module has.

    Args:
        known: maps fingerprints to `code_digest`s, as read from a run; anything else counts as no models.
        module: the model.
    """
    if not isinstance(known, dict) or not known:
        return ()
    own = code_digest(module)
    return tuple(str(model) for model, each in known.items() if each == own)


def coding(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model's state that its codes depend on."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(DECODING)}


def decoding(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model's decoder and likelihood."""
    return {name: tensor for name, tensor in state.items() if name.startswith(DECODING)}


def short(full: str) -> str:
    """The part of a digest that stands for it in codes, configs and records."""
    return full[:16]


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file with its checksum."""
    on_host = _on_host(tensors)
    save_file(on_host, path, {CHECKSUM: _hash(on_host)})
    path.chmod(0o644)  # safetensors makes the file readable for its owner only


def _hash(on_host: dict[str, Tensor]) -> str:
    return hashlib.sha256(save(on_host)).hexdigest()


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Cloned, because safetensors refuses tensors that share storage.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: if the file is missing or broken, or its tensors do not have the checksum that it states.
    """
    try:
        with safe_open(path, "pt") as file:
            stated = (file.metadata() or {}).get(CHECKSUM)
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not a complete safetensors file ({error}): restore it, or train again"
        ) from None
    if stated is not None and stated != (received := _hash(tensors)):
        raise InputError(
            f"expected tensors with the checksum {short(stated)} in {path}, received {short(received)}: the "
            "file is damaged or was edited; restore it, or save edited weights with save_pretrained"
        )
    return tensors


class ForeignWeights(InputError):
    """Weights of another module: other names or shapes."""


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Load weights into a module, and check their names, shapes, types and values.

    Values may be stored as bfloat16 or float16 in place of float32, which halves a file; other types are
    refused.

    Args:
        module: module to load into.
        tensors: weights by name.
        where: file or directory of the weights, for messages.

    Raises:
        ForeignWeights: if the names or shapes are not those of the module.
        InputError: if a tensor has another type, or is not finite.
    """
    for name, own in module.state_dict().items():
        if name in tensors:
            _check_values(name, tensors[name], own.dtype, where)
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ForeignWeights(
            f"the weights in {where} do not fit the model its config.json describes ({first})"
        ) from None


def _check_values(name: str, given: Tensor, dtype: torch.dtype, where: Path) -> None:
    if given.dtype not in (dtype, *NARROWER.get(dtype, ())):
        raise InputError(
            f"expected {name} as {dtype} in {where}, received {given.dtype}: restore the file, or convert "
            "the weights before saving them"
        )
    if given.is_floating_point() and not given.is_meta and not bool(given.isfinite().all()):
        raise InputError(
            f"expected finite weights in {where}, received {name} with NaN or infinite values: restore the "
            "file, or train again"
        )
