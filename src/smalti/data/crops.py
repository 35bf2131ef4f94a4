"""Batches of ragged items: random crops to train on, whole items to use and to measure.

Like those of `loader`, they are a function of the step alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.data.loader import nothing_missing
from smalti.data.store import Store


@final
class CropLoader:
    """Crops of one length, about places that are drawn evenly from all items.

    So long and short items have their share of the crops. A crop near an end of its item is moved inside; an
    item that is shorter than a crop is followed by padding, and `Batch.lengths` says where it ends.
    """

    resident = False
    """Whether the data lives on the device."""

    def __init__(
        self,
        store: Store,
        indices: Int64[np.ndarray, " m"] | None = None,
        *,
        length: int,
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        to_model: Callable[[Tensor], Tensor] | None = None,
        to_mask: Callable[[Tensor], Tensor | None] | None = None,
        labels: Int64[np.ndarray, " n"] | None = None,
        padding: int | float = 0,
        multiple: int = 1,
    ) -> None:
        """
        Args:
            store: of ragged items.
            indices: the items to use; None for all.
            length: of a crop, along the axis after the channels.
            batch_size: crops in a batch, over all processes.
            seed: of the draws, 0 or more.
            device: where batches are wanted.
            to_model: from stored items to `Batch.data`, on the device; None gives int64, as codes are.
            to_mask: from stored items to `Batch.mask`; None where no value can be missing.
            labels: class ids of all items, -1 for none; None takes those of the store.
            padding: what follows an item that ends before its batch.
            multiple: whole items are padded to a multiple of this.

        Raises:
            InputError: for an empty set, batch or crop.
        """
        assert store.lengths is not None
        chosen = np.arange(store.count) if indices is None else indices
        self.count = len(chosen)
        if self.count < 1 or batch_size < 1 or length < 1:
            raise InputError(
                f"expected at least one item, a batch and a crop of at least one, received {self.count} "
                f"items in batches of {batch_size} crops of {length}: check the data and the settings"
            )
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self._length, self._padding, self._multiple = length, padding, multiple
        self._to_model, self._to_mask = to_model or Tensor.long, to_mask or nothing_missing
        self._signals = store.signals
        self._lengths, self._begins = store.lengths[chosen], store.begins[chosen]
        self._ends = np.cumsum(self._lengths)
        given = (store.labels if labels is None else labels)[chosen]
        self._labels = torch.from_numpy(given) if (given >= 0).any() else None
        self._actions = store.actions
        self.voices: Float[Tensor, "m v"] | None = None
        """What is known of each item's speaker, to be given with it; the condition `voice`."""

    @property
    def steps_per_epoch(self) -> float:
        """Batches in which as much data goes by as there is."""
        return max(1.0, self._lengths.sum() / self._length) / self.batch_size

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Batch number `step`, or the part of it that belongs to one process; see `Loader.batch`.

        Raises:
            InputError: when the batch has no equal parts.
        """
        if self.batch_size % world:
            raise InputError(
                f"expected a batch size that {world} processes can share equally, "
                f"received {self.batch_size}: choose a multiple of {world}"
            )
        share = self.batch_size // world
        drawn = np.random.default_rng([self.seed, step]).integers(self._ends[-1], size=self.batch_size)
        drawn = drawn[rank * share : (rank + 1) * share]
        items = np.searchsorted(self._ends, drawn, side="right")
        centres = drawn - (self._ends[items] - self._lengths[items])
        last = np.maximum(0, self._lengths[items] - self._length)
        return self._crops(items, np.clip(centres - self._length // 2, 0, last))

    def speakers(self) -> dict[int, list[int]]:
        """Positions of the items of each label; an item without one is a speaker of its own, below -1."""
        groups: dict[int, list[int]] = {}
        for position in range(self.count):
            label = -1 if self._labels is None else int(self._labels[position])
            groups.setdefault(label if label >= 0 else -2 - position, []).append(position)
        return groups

    def watch(self, batch_size: int | None = None) -> Iterator[Batch]:
        """The middle crop of each item, in order: what is looked at while training."""
        size = batch_size or self.batch_size
        for start in range(0, self.count, size):
            yield self.items(np.arange(start, min(start + size, self.count)))

    def items(self, positions: Int64[np.ndarray, " b"]) -> Batch:
        """The middle crops of the items at these positions of the set, as one batch."""
        return self._crops(positions, np.maximum(0, self._lengths[positions] - self._length) // 2)

    def sequential(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Every item once, whole, in order, in batches of one: their lengths differ."""
        del batch_size
        for position in range(self.count):
            yield self.whole(position)

    def whole(self, position: int) -> Batch:
        """The item at a position of the set, whole, padded to a multiple of `multiple`."""
        length = int(self._lengths[position])
        padded = -(-length // self._multiple) * self._multiple
        return self._gather(np.array([position]), np.zeros(1, np.int64), padded)

    def _crops(self, items: np.ndarray, offsets: np.ndarray) -> Batch:
        return self._gather(items, offsets, self._length)

    def _gather(self, items: np.ndarray, offsets: np.ndarray, length: int) -> Batch:
        others = self._signals.shape[1:]
        rows = np.full((len(items), length, *others), self._padding, self._signals.dtype)
        inside = np.minimum(length, self._lengths[items] - offsets)
        for row, begin, count in zip(rows, self._begins[items] + offsets, inside, strict=True):
            row[:count] = self._signals[begin : begin + count]
        actions = None
        if self._actions is not None:
            done = np.full((len(items), length), -1, np.int64)
            for row, begin, count in zip(done, self._begins[items] + offsets, inside, strict=True):
                row[:count] = self._actions[begin : begin + count]
            actions = torch.from_numpy(done).to(self.device)
        signals = torch.from_numpy(np.ascontiguousarray(np.moveaxis(rows, 1, 2))).to(self.device)
        labels = None if self._labels is None else self._labels[torch.from_numpy(items)].to(self.device)
        is_full = bool((inside == length).all())
        lengths = None if is_full else torch.from_numpy(inside.astype(np.int64)).to(self.device)
        voices = None if self.voices is None else self.voices[torch.from_numpy(items)].to(self.device)
        conditions = Conditions(label=labels, voice=voices, action=actions)
        return Batch(self._to_model(signals), conditions, lengths, self._to_mask(signals))
