"""The loader that fits a store, and batches joined from several loaders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from smalti.core.conditions import Batch, Conditions, ConditionValue
from smalti.core.modality import Modality
from smalti.data.crops import CropLoader
from smalti.data.loader import Loader
from smalti.data.store import Store


def loader_of(
    store: Store,
    modality: Modality,
    *,
    batch_size: int,
    device: torch.device,
    seed: int = 0,
    indices: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    strides: Sequence[int] = (),
    is_resident: bool = True,
) -> Loader | CropLoader:
    """Load batches of a store's signals; signals of varying size are cropped.

    Args:
        store: of the signals.
        modality: of the signals.
        batch_size: items in a batch, over all processes.
        device: of the batches.
        seed: of the order or the crops, 0 or more.
        indices: items to use; None for all.
        labels: class ids of all items, -1 for none; None takes those of the store.
        is_resident: keep data that fits on the device, instead of on the host.
        strides: of the model; whole items of varying size are padded to multiples of them.
    """
    if store.lengths is None:
        return Loader(
            store,
            labels,
            indices,
            batch_size=batch_size,
            seed=seed,
            device=device,
            to_model=modality.to_model,
            to_mask=modality.mask,
            augment=modality.augment,
            is_resident=is_resident,
        )
    return CropLoader(
        store,
        indices,
        size=modality.spec.size[: store.num_open],
        batch_size=batch_size,
        seed=seed,
        device=device,
        to_model=modality.to_model,
        to_mask=modality.mask,
        labels=labels,
        padding=modality.padding,
        strides=strides[: store.num_open],
        augment=None if modality.is_ragged else modality.augment,
    )


def joined(parts: Sequence[Batch]) -> Batch:
    """Join batches of items of one size, in order; ids that a batch does not have are not given (-1)."""
    if len(parts) == 1:
        return parts[0]
    values: dict[str, ConditionValue] = {}
    for part in parts:
        values |= part.conditions
    conditions = {
        name: type(value)(torch.cat([_values(part, name, value) for part in parts]))
        for name, value in values.items()
    }
    lengths = mask = None
    if any(part.lengths is not None for part in parts):
        lengths = torch.cat([_lengths(part) for part in parts])
    if any(part.mask is not None for part in parts):
        mask = torch.cat([_mask(part) for part in parts])
    return Batch(torch.cat([part.data for part in parts]), Conditions(**conditions), lengths, mask)


def _values(part: Batch, name: str, like: ConditionValue) -> Tensor:
    if name in part.conditions:
        return part.conditions[name].data
    return like.data.new_full((len(part.data), *like.data.shape[1:]), -1)


def _lengths(part: Batch) -> Tensor:
    if part.lengths is not None:
        return part.lengths
    return torch.full((len(part.data),), part.data.shape[2], device=part.data.device)


def _mask(part: Batch) -> Tensor:
    return torch.ones_like(part.data, dtype=torch.bool) if part.mask is None else part.mask
