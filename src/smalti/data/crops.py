"""Batches of ragged items: random crops for training, whole items for evaluation.

Like those of `loader`, they are a function of the step alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditions import Batch, Conditions, ConditionValue
from smalti.core.errors import InputError
from smalti.data.columns import Column
from smalti.data.loader import augmentation_draws, nothing_missing
from smalti.data.padding import reflected
from smalti.data.store import Store


@final
class CropLoader:
    """Crops of one size, centred at positions drawn uniformly from all items.

    Crops are cut along the axes in which items differ: time of sounds and clips, height and width of
    pictures. Large items therefore have more crops than small ones. A crop near the end of its item is moved
    inside; an item shorter than a crop is padded, and `Batch.lengths` gives its length. Pictures are no
    smaller than a crop.

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
        size: Sequence[int],
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        to_model: Callable[[Tensor], Tensor] | None = None,
        to_mask: Callable[[Tensor], Tensor | None] | None = None,
        labels: Int64[np.ndarray, " n"] | None = None,
        padding: int | float = 0,
        strides: Sequence[int] = (),
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """
        Args:
            store: of ragged items.
            indices: items to use; None for all.
            size: of a crop, along the axes in which items differ.
            batch_size: crops in a batch, over all processes.
            seed: of the draws, 0 or more.
            device: of the batches.
            to_model: maps stored items to `Batch.data`, on the device; None converts to int64, for codes.
            to_mask: maps stored items to `Batch.mask`; None if no value can be missing.
            labels: class ids of all items, -1 for none; None takes those of the store.
            padding: level that fills up items shorter than the batch.
            strides: whole items are padded to multiples of these; () pads none.
            augment: changes the stored items of training batches; see `Modality.augment`.

        Raises:
            InputError: for an empty set, batch or crop, or a crop with another number of sides.
        """
        assert store.lengths is not None
        chosen = np.arange(store.count) if indices is None else indices
        self.count = len(chosen)
        if self.count < 1 or batch_size < 1 or len(size) != store.num_open or min(size) < 1:
            raise InputError(
                f"expected at least one item, a batch of at least one, and crops with {store.num_open} sides "
                f"of at least one, received {self.count} items in batches of {batch_size} crops of "
                f"{tuple(size)}: check the data and the settings"
            )
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self._size, self._padding = np.array(size, np.int64), padding
        self._strides = np.array(strides or (1,) * len(size), np.int64)
        self._augment = augment
        self._to_model, self._to_mask = to_model or Tensor.long, to_mask or nothing_missing
        self._signals = store.signals
        self._lengths, self._begins = store.lengths[chosen], store.begins[chosen]
        self._sides = store.open_sides[chosen]
        self._ends = np.cumsum(self._lengths)
        given = (store.labels if labels is None else labels)[chosen]
        self._labels = torch.from_numpy(given) if (given >= 0).any() else None
        self._actions = store.actions
        self._columns = store.columns
        self._indices = chosen
        self.voices: Float[Tensor, "m v"] | None = None
        """Statistics of each item's speaker, passed on as the condition `voice`."""

    @property
    def num_sides(self) -> int:
        """Number of sides in which items differ."""
        return len(self._size)

    @property
    def num_positions(self) -> int:
        """Number of positions of all items, around each of which there is a crop."""
        return int(self._ends[-1])

    @property
    def steps_per_epoch(self) -> float:
        """Batches whose crops have as many positions in total as the data."""
        return max(1.0, self._lengths.sum() / math.prod(self._size.tolist())) / self.batch_size

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
        own = slice(rank * share, (rank + 1) * share)
        drawn = np.random.default_rng([self.seed, step]).integers(self._ends[-1], size=self.batch_size)
        draws = None if self._augment is None else augmentation_draws(self.seed, step, self.batch_size)[own]
        return self.centred(drawn[own], draws)

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
            yield self.centred(centres[start : start + size])

    def items(self, positions: Int64[np.ndarray, " b"]) -> Batch:
        """Return the middle crops of the items at these positions of the set as one batch."""
        return self._gather(positions, np.maximum(0, self._sides[positions] - self._size) // 2, self._size)

    def sequential(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield every whole item once, in order, in batches of one because sizes differ."""
        del batch_size
        for position in range(self.count):
            yield self.whole(position)

    def whole(self, position: int) -> Batch:
        """Return the whole item at a position of the set, padded to multiples of the strides.

        A length is filled up, and `Batch.lengths` gives that of the item; pictures are continued by
        reflection, and `Batch.mask` excludes the continuation.
        """
        item, begin = np.array([position]), np.zeros((1, len(self._size)), np.int64)
        sides = self._sides[position]
        padded = -(-sides // self._strides) * self._strides
        if len(sides) == 1:
            return self._gather(item, begin, padded)
        batch = self._gather(item, begin, sides)
        return batch if (padded == sides).all() else _continued(batch, padded.tolist())

    def centred(self, centres: Int64[np.ndarray, " b"], draws: Float[Tensor, " b"] | None = None) -> Batch:
        """Return crops around positions of the concatenation of all items, augmented by any draws."""
        items = np.searchsorted(self._ends, centres, side="right")
        sides = self._sides[items]
        inside = centres - (self._ends[items] - self._lengths[items])
        last = np.maximum(0, sides - self._size)
        begins = np.clip(_unravelled(inside, sides) - self._size // 2, 0, last)
        return self._gather(items, begins, self._size, draws)

    def _gather(
        self,
        items: Int64[np.ndarray, " b"],
        begins: Int64[np.ndarray, "b sides"],
        size: Int64[np.ndarray, " sides"],
        draws: Float[Tensor, " b"] | None = None,
    ) -> Batch:
        """Cut one part of each item, and augment them by draws if there are any."""
        parts = _Parts(self._begins[items], self._sides[items], begins, size)
        rows = parts.of(self._signals, self._padding)
        stored = np.ascontiguousarray(np.moveaxis(rows, 1 + len(size), 1))
        signals = torch.from_numpy(stored).to(self.device)
        if self._augment is not None and draws is not None:
            signals = self._augment(signals, draws.to(self.device))
        positions = torch.from_numpy(items)
        actions = None
        if self._actions is not None:
            actions = torch.from_numpy(parts.of(self._actions, -1)).to(self.device)
        labels = None if self._labels is None else self._labels[positions].to(self.device)
        voices = None if self.voices is None else self.voices[positions].to(self.device)
        columns = {name: self._condition(column, items, parts) for name, column in self._columns.items()}
        conditions = Conditions(label=labels, voice=voices, action=actions, **columns)
        inside = parts.lengths
        is_full = bool((inside == size[0]).all())
        lengths = None if is_full else torch.from_numpy(inside).to(self.device)
        return Batch(self._to_model(signals), conditions, lengths, self._to_mask(signals))

    def _condition(self, column: Column, items: np.ndarray, parts: _Parts) -> ConditionValue:
        """Return a column of some items, cropped where it has a value per frame."""
        spec = column.spec
        values = (
            parts.of(column.data, spec.padding) if spec.is_per_frame else column.data[self._indices[items]]
        )
        return column.condition(torch.from_numpy(values).to(self.device))


@final
@dataclass(frozen=True)
class _Parts:
    """One part of each of several items, filled up with padding.

    Attributes:
        rows: first row of each item.
        sides: of each item.
        begins: first position of each part in its item.
        size: of every part.
    """

    rows: Int64[np.ndarray, " b"]
    sides: Int64[np.ndarray, "b sides"]
    begins: Int64[np.ndarray, "b sides"]
    size: Int64[np.ndarray, " sides"]

    @property
    def lengths(self) -> Int64[np.ndarray, " b"]:
        """Length of each part along the first axis, without padding."""
        return np.minimum(self.size[0], self.sides[:, 0] - self.begins[:, 0])

    def of(self, source: np.ndarray, padding: int | float) -> np.ndarray:
        """Copy the parts of an array of rows, `(B, *size, *others)`."""
        others = source.shape[1:]
        copied = np.full((len(self.rows), *self.size, *others), padding, source.dtype)
        for part, first, sides, begins in zip(copied, self.rows, self.sides, self.begins, strict=True):
            item = source[first : first + math.prod(sides.tolist())].reshape(*sides, *others)
            cut = item[tuple(slice(at, at + n) for at, n in zip(begins, self.size, strict=True))]
            part[tuple(map(slice, cut.shape[: len(sides)]))] = cut
        return copied


def _unravelled(
    rows: Int64[np.ndarray, " b"], sides: Int64[np.ndarray, "b sides"]
) -> Int64[np.ndarray, "b sides"]:
    """Position along each axis of one row of each item."""
    positions = np.empty_like(sides)
    for axis in reversed(range(sides.shape[1])):
        rows, positions[:, axis] = np.divmod(rows, sides[:, axis])
    return positions


def _continued(batch: Batch, size: Sequence[int]) -> Batch:
    """Continue the items of a batch by reflection to a larger size, and mask the continuation."""
    data = batch.data
    mask = torch.ones_like(data, dtype=torch.bool) if batch.mask is None else batch.mask
    for axis, side in enumerate(size, 2):
        given = data.shape[axis]
        data = data.index_select(axis, reflected(given, side).to(data.device))
        more = (*mask.shape[:axis], side - given, *mask.shape[axis + 1 :])
        mask = torch.cat([mask, mask.new_zeros(more)], axis)
    return replace(batch, data=data, mask=mask)
