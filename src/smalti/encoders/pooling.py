"""Encoders conditioned on statistics of all items of a label, such as a speaker's voice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from smalti.core.modality import Modality
from smalti.core.models import LatentVariableModel
from smalti.core.parts import Encoder
from smalti.core.precision import in_full_precision
from smalti.data.padding import padded
from smalti.data.store import Store


class PoolingEncoder(Encoder, ABC):
    """An encoder whose latents depend on statistics of several items, for example all items of a speaker.

    Training computes the statistics of its labels once and keeps them in the buffer `pooled`, so that they
    are saved with the weights. The rules in `smalti.encoding` define which statistics an item gets.

    Args:
        num_statistics: V, number of values per label.
    """

    pooled: Tensor
    """Statistics by label of the training data, `(L, V)`; a row of zeros where they are unknown."""

    def __init__(self, num_statistics: int) -> None:
        super().__init__()
        self.register_buffer("pooled", torch.zeros(0, num_statistics))
        self.register_load_state_dict_pre_hook(_take_labels)

    @abstractmethod
    def pool(self, items: Sequence[Float[Tensor, " c *_"]]) -> Float[Tensor, " v"]:
        """Compute the statistics of items with the same label; never all zeros.

        Args:
            items: signals in the model's range; their lengths may differ.
        """

    def remember(self, statistics: Mapping[int, Float[Tensor, " v"]], num_labels: int) -> None:
        """Store the statistics of the labels of the training data, replacing any previous ones."""
        pooled = self.pooled.new_zeros(num_labels, self.pooled.shape[1])
        for label, values in statistics.items():
            pooled[label] = values
        self.pooled = pooled

    def known(self, label: int) -> Float[Tensor, " v"] | None:
        """Statistics of a label of the training data; None for any other label."""
        if not 0 <= label < len(self.pooled):
            return None
        values = self.pooled[label]
        return values if bool(values.any()) else None


def _take_labels(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Resize the buffer before loading: the number of labels is not known when an encoder is built."""
    del others
    assert isinstance(module, PoolingEncoder)
    stored = state.get(f"{prefix}pooled")
    if isinstance(stored, Tensor) and stored.ndim == 2 and stored.shape[1] == module.pooled.shape[1]:
        module.pooled = module.pooled.new_zeros(stored.shape)


def remember_statistics(
    model: LatentVariableModel, modality: Modality, store: Store, indices: Int64[np.ndarray, " m"]
) -> None:
    """Store the statistics of each label of the training items in a `PoolingEncoder`; no-op for other
    encoders.

    Args:
        model: its labels are those of the store.
        modality: of the signals.
        store: the run's data.
        indices: indices of the training items in the store.
    """
    encoder = model.encoder
    if not isinstance(encoder, PoolingEncoder):
        return
    members: dict[int, list[int]] = {}
    for index in indices.tolist():
        if store.labels[index] >= 0:
            members.setdefault(int(store.labels[index]), []).append(index)
    statistics = {label: _pool(model, modality, store, items) for label, items in members.items()}
    encoder.remember(statistics, len(store.classes))


@torch.no_grad()
def item_statistics(
    model: LatentVariableModel, modality: Modality, store: Store, labels: Mapping[str, int]
) -> Float[Tensor, "n v"] | None:
    """Statistics of each item of a store, by the rules of `smalti.encoding`; None if the encoder uses none.

    Args:
        model: on the device where its encoder computes the statistics.
        modality: of the signals.
        store: of the items.
        labels: the model's label of each class, by the class name used in the store.
    """
    encoder = model.encoder
    if not isinstance(encoder, PoolingEncoder):
        return None
    groups: dict[tuple[bool, int], list[int]] = {}
    for index, label in enumerate(store.labels.tolist()):
        groups.setdefault((label >= 0, label if label >= 0 else index), []).append(index)
    rows = torch.empty(store.count, encoder.pooled.shape[1])
    for (has_label, number), members in groups.items():
        known = encoder.known(labels.get(store.classes[number], -1)) if has_label else None
        rows[members] = (_pool(model, modality, store, members) if known is None else known).cpu()
    return rows


@in_full_precision
def _pool(
    model: LatentVariableModel, modality: Modality, store: Store, members: Sequence[int]
) -> Float[Tensor, " v"]:
    encoder = model.encoder
    assert isinstance(encoder, PoolingEncoder)
    levels = (torch.from_numpy(np.ascontiguousarray(store.item(index))) for index in members)
    signals = [padded(modality, modality.to_model(one.unsqueeze(0)), model.strides)[0] for one in levels]
    with torch.no_grad():
        return encoder.pool([signal.to(encoder.pooled.device) for signal in signals])
