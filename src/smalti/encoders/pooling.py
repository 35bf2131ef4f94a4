"""Encoders that are conditioned on statistics of all items of a label, such as a speaker's voice."""

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
from smalti.data.padding import padded
from smalti.data.store import Store


class PoolingEncoder(Encoder, ABC):
    """An encoder whose latents depend on statistics of several items: all those of a speaker, for example.

    The statistics of the labels of the training data are computed once, by training, and kept in the buffer
    `pooled`, so that they are saved with the weights. `smalti.encoding` applies the one rule for all items.

    Args:
        num_statistics: V, values for each label.
    """

    pooled: Tensor
    """Statistics by label of the training data, `(L, V)`; a row of zeros where they are not known."""

    def __init__(self, num_statistics: int) -> None:
        super().__init__()
        self.register_buffer("pooled", torch.zeros(0, num_statistics))
        self.register_load_state_dict_pre_hook(_take_labels)

    @abstractmethod
    def pool(self, items: Sequence[Float[Tensor, " c *_"]]) -> Float[Tensor, " v"]:
        """The statistics of items of one label; never all zeros.

        Args:
            items: signals in the model's range, which may differ in length.
        """

    def remember(self, statistics: Mapping[int, Float[Tensor, " v"]], num_labels: int) -> None:
        """Keep the statistics of the labels of the training data, in place of any from before."""
        pooled = self.pooled.new_zeros(num_labels, self.pooled.shape[1])
        for label, values in statistics.items():
            pooled[label] = values
        self.pooled = pooled

    def known(self, label: int) -> Float[Tensor, " v"] | None:
        """The statistics of a label of the training data; None for any other."""
        if not 0 <= label < len(self.pooled):
            return None
        values = self.pooled[label]
        return values if bool(values.any()) else None


def _take_labels(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Make room for the stored statistics: the number of labels is not known when an encoder is built."""
    del others
    assert isinstance(module, PoolingEncoder)
    stored = state.get(f"{prefix}pooled")
    if isinstance(stored, Tensor) and stored.ndim == 2 and stored.shape[1] == module.pooled.shape[1]:
        module.pooled = module.pooled.new_zeros(stored.shape)


def remember_statistics(
    model: LatentVariableModel, modality: Modality, store: Store, indices: Int64[np.ndarray, " m"]
) -> None:
    """Give a `PoolingEncoder` the statistics of each label of its training items; others need none.

    Args:
        model: whose labels are those of the store.
        modality: of the signals.
        store: the run's data.
        indices: the items of it that are trained on.
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
    """The statistics for each item of a store, by the rule of `smalti.encoding`; None where none are needed.

    Args:
        model: with its encoder where they are to be computed.
        modality: of the signals.
        store: of the items.
        labels: the model's label of each class, by the name that the store uses for it.
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


def _pool(
    model: LatentVariableModel, modality: Modality, store: Store, members: Sequence[int]
) -> Float[Tensor, " v"]:
    encoder = model.encoder
    assert isinstance(encoder, PoolingEncoder)
    levels = (torch.from_numpy(np.ascontiguousarray(store.item(index))) for index in members)
    signals = [padded(modality, modality.to_model(one.unsqueeze(0)), model.stride)[0] for one in levels]
    with torch.no_grad():
        return encoder.pool([signal.to(encoder.pooled.device) for signal in signals])
