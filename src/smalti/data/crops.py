"""Batches of ragged items: random crops for training, whole items for encoding and evaluation.

Like those of `loader`, they are a function of the step alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditions import Batch, Conditions, ConditionValue
from smalti.core.errors import InputError
from smalti.data.columns import Column
from smalti.data.loader import nothing_missing
from smalti.data.store import Store


@final
class CropLoader:
    """Crops of one length, centred at positions drawn uniformly from all items.

    Long items therefore have more crops than short ones. A crop near the end of its item is moved inside; an
    item shorter than a crop is padded, and `Batch.lengths` gives its length.

    The columns of a store become conditions of the batches, under their names. Columns with a value per frame
    are cropped like the signal; their padding is -1 for ids and 0 for vectors.
    """

    resident = False
    """True if the data is kept on the device."""

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
            indices: items to use; None for all.
            length: of a crop, along the axis after the channels.
            batch_size: crops in a batch, over all processes.
            seed: of the draws, 0 or more.
            device: of the batches.
            to_model: maps stored items to `Batch.data`, on the device; None converts to int64, for codes.
            to_mask: maps stored items to `Batch.mask`; None if no value can be missing.
            labels: class ids of all items, -1 for none; None takes those of the store.
            padding: level that fills up items shorter than the batch.
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
        self._columns = store.columns
        self._indices = chosen
        self.voices: Float[Tensor, "m v"] | None = None
        """Statistics of each item's speaker, passed on as the condition `voice`."""

    @property
    def steps_per_epoch(self) -> float:
        """Batches whose crops have as many positions in total as the data."""
        return max(1.0, self._lengths.sum() / self._length) / self.batch_size

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Return batch number `step`, or one process's share of it; see `Loader.batch`.

        Raises:
            InputError: if the batch cannot be shared equally.
        """
        if self.batch_size % world:
            raise InputError(
                f"expected a batch size that {world} processes can share equally, "
                f"received {self.batch_size}: choose a multiple of {world}"
            )
        share = self.batch_size // world
        drawn = np.random.default_rng([self.seed, step]).integers(self._ends[-1], size=self.batch_size)
        return self._centred(drawn[rank * share : (rank + 1) * share])

    def speakers(self) -> dict[int, list[int]]:
        """Return the positions of the items of each label; an item without one has its own key, below -1."""
        groups: dict[int, list[int]] = {}
        for position in range(self.count):
            label = -1 if self._labels is None else int(self._labels[position])
            groups.setdefault(label if label >= 0 else -2 - position, []).append(position)
        return groups

    def watch(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield the middle crop of each item, in order: the batches evaluated during training."""
        size = batch_size or self.batch_size
        for start in range(0, self.count, size):
            yield self.items(np.arange(start, min(start + size, self.count)))

    def spread(self, num: int, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield `num` crops at evenly spaced positions of all items, in order."""
        size = batch_size or self.batch_size
        centres = (2 * np.arange(num) + 1) * self._ends[-1] // (2 * num)
        for start in range(0, num, size):
            yield self._centred(centres[start : start + size])

    def items(self, positions: Int64[np.ndarray, " b"]) -> Batch:
        """Return the middle crops of the items at these positions of the set as one batch."""
        return self._crops(positions, np.maximum(0, self._lengths[positions] - self._length) // 2)

    def sequential(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield every whole item once, in order, in batches of one because lengths differ."""
        del batch_size
        for position in range(self.count):
            yield self.whole(position)

    def whole(self, position: int) -> Batch:
        """Return the whole item at a position of the set, padded to a multiple of `multiple`."""
        length = int(self._lengths[position])
        padded = -(-length // self._multiple) * self._multiple
        return self._gather(np.array([position]), np.zeros(1, np.int64), padded)

    def _centred(self, centres: Int64[np.ndarray, " b"]) -> Batch:
        """Return crops around positions of the concatenation of all items."""
        items = np.searchsorted(self._ends, centres, side="right")
        inside = centres - (self._ends[items] - self._lengths[items])
        last = np.maximum(0, self._lengths[items] - self._length)
        return self._crops(items, np.clip(inside - self._length // 2, 0, last))

    def _crops(self, items: np.ndarray, offsets: np.ndarray) -> Batch:
        return self._gather(items, offsets, self._length)

    def _gather(self, items: np.ndarray, offsets: np.ndarray, length: int) -> Batch:
        inside = np.minimum(length, self._lengths[items] - offsets)
        stretches = _Stretches(self._begins[items] + offsets, inside, length)
        rows = stretches.of(self._signals, self._padding)
        signals = torch.from_numpy(np.ascontiguousarray(np.moveaxis(rows, 1, 2))).to(self.device)
        positions = torch.from_numpy(items)
        actions = None
        if self._actions is not None:
            actions = torch.from_numpy(stretches.of(self._actions, -1)).to(self.device)
        labels = None if self._labels is None else self._labels[positions].to(self.device)
        voices = None if self.voices is None else self.voices[positions].to(self.device)
        columns = {name: self._condition(column, items, stretches) for name, column in self._columns.items()}
        conditions = Conditions(label=labels, voice=voices, action=actions, **columns)
        is_full = bool((inside == length).all())
        lengths = None if is_full else torch.from_numpy(inside.astype(np.int64)).to(self.device)
        return Batch(self._to_model(signals), conditions, lengths, self._to_mask(signals))

    def _condition(self, column: Column, items: np.ndarray, stretches: _Stretches) -> ConditionValue:
        """Return a column of some items, cropped where it has a value per frame."""
        spec = column.spec
        values = (
            stretches.of(column.data, spec.padding)
            if spec.is_per_frame
            else column.data[self._indices[items]]
        )
        return column.condition(torch.from_numpy(values).to(self.device))


@final
@dataclass(frozen=True)
class _Stretches:
    """Adjacent rows of several items, each followed by padding.

    Attributes:
        begins: first row of each.
        counts: rows of each.
        length: of the padded stretches.
    """

    begins: np.ndarray
    counts: np.ndarray
    length: int

    def of(self, source: np.ndarray, padding: int | float) -> np.ndarray:
        """Copy the stretches of an array of rows, `(B, length, *others)`."""
        copied = np.full((len(self.begins), self.length, *source.shape[1:]), padding, source.dtype)
        for row, begin, count in zip(copied, self.begins, self.counts, strict=True):
            row[:count] = source[begin : begin + count]
        return copied
