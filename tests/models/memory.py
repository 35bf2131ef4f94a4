"""The most memory of the tensors that a piece of code makes, whoever holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Watches every tensor that is made under it, in the backward pass too (on a CPU).

    Views of what was there before are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        """Most bytes that were alive at once."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {reference.cdata for reference, _ in _references((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for reference, size in _references(made):
            if reference.cdata not in given:
                self._storages.setdefault(reference.cdata, (reference, size))
        self.peak = max(self.peak, self.now())
        return made

    def now(self) -> int:
        """Bytes that are alive."""
        self._storages = {key: kept for key, kept in self._storages.items() if not kept[0].expired()}
        return sum(size for _, size in self._storages.values())


def _references(tree: Any) -> list[tuple[StorageWeakRef, int]]:
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return [(StorageWeakRef(storage), storage.nbytes()) for storage in storages]
