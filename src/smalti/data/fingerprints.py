"""Fingerprints of the items that a run was trained on, by which `evaluate` recognises them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from smalti.core.files import atomic_file
from smalti.core.weights import read_tensors, write_tensors
from smalti.data.store import Store

FILE = "trained_items.safetensors"
_KEY = "fingerprints"
_BYTES = 8


def no_progress(done: int, total: int) -> None:
    """Default: report nothing."""


def fingerprints(
    store: Store,
    indices: Iterable[int] | None = None,
    progress: Callable[[int, int], None] = no_progress,
    size: Sequence[int] | None = None,
) -> Int64[np.ndarray, " n"]:
    """Return a 64-bit hash of each item's decoded values, type and shape.

    Args:
        store: the items.
        indices: items to hash; None for all.
        progress: called with the number of items done and the total.
        size: of the middle part of each item to hash; None for the whole.
    """
    chosen = range(store.count) if indices is None else list(indices)
    hashes = np.empty(len(chosen), np.int64)
    for position, index in enumerate(chosen):
        item = store.item(index, size)
        hashed = blake2b(f"{item.dtype.str} {item.shape}".encode(), digest_size=_BYTES)
        hashed.update(np.ascontiguousarray(item).data)
        hashes[position] = int.from_bytes(hashed.digest(), "little", signed=True)
        progress(position + 1, len(chosen))
    return hashes


def write_fingerprints(directory: Path, hashes: Int64[np.ndarray, " n"]) -> None:
    """Write the fingerprints of the items that a run is trained on into its directory, sorted."""
    with atomic_file(directory / FILE) as temporary:
        write_tensors({_KEY: torch.from_numpy(np.unique(hashes))}, temporary)


def read_fingerprints(directory: Path) -> Int64[np.ndarray, " n"] | None:
    """Read the fingerprints of a run; None if it has none, like a saved model or a run of an earlier version.

    Raises:
        InputError: if the file is broken.
    """
    file = directory / FILE
    if not file.is_file():
        return None
    tensors = read_tensors(file)
    return tensors[_KEY].numpy() if _KEY in tensors else None
