"""Batches of items of one size, as a function of the step alone.

A run that is resumed, or shared by several processes, therefore sees the same data as one that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.data.columns import Column
from smalti.data.store import Store

_CHUNK_BYTES = 64 << 20
"""Bytes copied to a device at a time, so that a subset never exists twice on the host."""


@final
class Loader:
    """Shuffled batches of memory-mapped data.

    The training data is the endless concatenation of epochs, each a permutation that depends on the seed and
    the number of the epoch alone; batch `step` is its items `[step * B, (step + 1) * B)`. Only caches are
    kept between calls. Data that fits is kept on the device, other data is gathered on the host.

    The columns of a store become conditions of the batches, under their names.
    """

    def __init__(
        self,
        data: Store | np.ndarray,
        labels: Int64[np.ndarray, " n"] | None = None,
        indices: Int64[np.ndarray, " m"] | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        to_model: Callable[[Tensor], Tensor] | None = None,
        to_mask: Callable[[Tensor], Tensor | None] | None = None,
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
        is_resident: bool = True,
    ) -> None:
        """
        Args:
            data: a store, or an array `(N, *shape)`.
            labels: class ids, -1 for none; None takes those of the store, if it is one.
            indices: items to use; None for all.
            batch_size: items in a batch, over all processes.
            seed: of the order, 0 or more.
            device: of the batches.
            to_model: maps stored items to `Batch.data`, on the device; None converts to int64, for codes.
            to_mask: maps stored items to `Batch.mask`; None if no value can be missing.
            augment: changes the stored items of training batches; see `Modality.augment`.
            is_resident: keep data that fits on the device, instead of on the host.

        Raises:
            InputError: for an empty set or batch, or a number of labels other than that of the items.
        """
        columns: Mapping[str, Column] = {}
        if isinstance(data, Store):
            labels = data.labels if labels is None else labels
            columns = data.columns
            data = data.signals
        if labels is not None and len(labels) != len(data):
            raise InputError(
                f"expected one label for each of {len(data)} items, received {len(labels)} labels"
            )
        self.count = len(data) if indices is None else len(indices)
        if self.count < 1 or batch_size < 1:
            raise InputError(
                f"expected at least one item and a batch of at least one, received {self.count} items "
                f"in batches of {batch_size}: check the data, its split and the batch size"
            )
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self._to_model, self._to_mask = to_model or _to_codes, to_mask or nothing_missing
        self._augment = augment

        host = torch.from_numpy(data)
        chosen = None if indices is None else torch.from_numpy(np.ascontiguousarray(indices))
        label_tensor = torch.from_numpy(np.ascontiguousarray(labels)) if labels is not None else None
        if label_tensor is not None and chosen is not None:
            label_tensor = label_tensor[chosen]
        has_labels = label_tensor is not None and bool((label_tensor >= 0).any())
        self._labels = label_tensor.to(self.device) if has_labels and label_tensor is not None else None
        self._columns = {
            name: (column, _chosen(column.by_item(len(data)), chosen).to(self.device))
            for name, column in columns.items()
        }

        item_bytes = host[0].numel() * host.element_size()
        self.resident = is_resident and _fits(self.device, self.count * item_bytes)
        """True if the data is kept on the device."""
        if self.resident and self.device.type != "cpu":
            self._signals = _copy_to_device(
                host, chosen, self.device, max(1, _CHUNK_BYTES // max(1, item_bytes))
            )
            self._rows = None
        else:
            self._signals, self._rows = host, chosen
        self._epoch_cache: tuple[int, Tensor] | None = None
        self.voices: Float[Tensor, "m v"] | None = None
        """Statistics of each item's label, passed on as the condition `voice`."""

    @property
    def steps_per_epoch(self) -> float:
        """Batches in one pass over the data; a fraction if batches cross its end."""
        return self.count / self.batch_size

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Return batch number `step`, or one process's share of it.

        Args:
            step: 0 or more, in any order.
            rank: of the process.
            world: number of processes; their shares, in order of rank, make up the batch.

        Raises:
            InputError: if the batch cannot be shared equally.
        """
        if self.batch_size % world:
            raise InputError(
                f"expected a batch size that {world} processes can share equally, "
                f"received {self.batch_size}: choose a multiple of {world}"
            )
        share = self.batch_size // world
        positions = self._order(step * self.batch_size + rank * share, share)
        if self._augment is None:
            return self._gather(positions)
        draws = augmentation_draws(self.seed, step, self.batch_size)
        return self._gather(positions, draws[rank * share : (rank + 1) * share])

    def sequential(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield every item once, in order, for evaluation; the last batch may be smaller."""
        size = batch_size or self.batch_size
        for start in range(0, self.count, size):
            yield self._gather(torch.arange(start, min(start + size, self.count)))

    def watch(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield the batches evaluated during training: every item."""
        return self.sequential(batch_size)

    def items(self, positions: Int64[np.ndarray, " b"], draws: Float[Tensor, " b"] | None = None) -> Batch:
        """Return the items at these positions of the set as one batch, augmented by any draws."""
        return self._gather(torch.from_numpy(positions), None if self._augment is None else draws)

    def _order(self, start: int, length: int) -> Int64[Tensor, " length"]:
        """Return items `[start, start + length)` of the endless concatenation of epochs."""
        parts: list[Tensor] = []
        while length > 0:
            epoch, offset = divmod(start, self.count)
            part = self._permutation(epoch)[offset : offset + length]
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Int64[Tensor, " n"]:
        cached = self._epoch_cache
        if cached is None or cached[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            self._epoch_cache = cached = (epoch, torch.from_numpy(order))
        return cached[1]

    def _gather(self, positions: Int64[Tensor, " b"], draws: Float[Tensor, " b"] | None = None) -> Batch:
        """Gather the items at these positions of the set, augmented by draws if there are any."""
        rows = positions if self._rows is None else self._rows[positions]
        on_device = positions.to(self.device, non_blocking=True)
        if self.resident:
            signals = self._signals.index_select(0, rows if self.device.type == "cpu" else on_device)
        else:
            signals = self._gather_on_host(rows).to(self.device, non_blocking=True)
        if self._augment is not None and draws is not None:
            signals = self._augment(signals, draws.to(self.device, non_blocking=True))
        labels = None if self._labels is None else self._labels.index_select(0, on_device)
        voices = None if self.voices is None else self.voices[positions].to(self.device)
        mask = self._to_mask(signals)
        columns = {
            name: column.condition(values.index_select(0, on_device))
            for name, (column, values) in self._columns.items()
        }
        conditions = Conditions(label=labels, voice=voices, **columns)
        return Batch(self._to_model(signals), conditions, mask=mask)

    def _gather_on_host(self, rows: Int64[Tensor, " b"]) -> Tensor:
        # Pinned memory of torch's own allocator, which reuses it only after the copy is done.
        pinned = self.device.type == "cuda"
        gathered = torch.empty(
            (len(rows), *self._signals.shape[1:]), dtype=self._signals.dtype, pin_memory=pinned
        )
        return torch.index_select(self._signals, 0, rows, out=gathered)


def split_indices(
    count: int, fraction: float, seed: int = 0
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " validation"]]:
    """Split a set into training and validation items, each in ascending order.

    Args:
        count: number of items.
        fraction: share of them for validation, in [0, 1); above 0, both sides get at least one item.
        seed: of the choice.

    Raises:
        InputError: if there is no such split.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"expected a validation fraction from 0 to below 1, received {fraction}: try 0.1")
    if fraction > 0 and count < 2:
        raise InputError(
            f"expected at least 2 items to hold some out, received {count}: add data, or set "
            "validation_fraction=0 to hold out none"
        )
    held_out = min(max(round(count * fraction), 1), count - 1) if fraction > 0 else 0
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def evenly_spaced(indices: np.ndarray, num: int) -> np.ndarray:
    """Return at most `num` evenly spaced indices, since neighbours may share a class."""
    return indices[np.linspace(0, len(indices) - 1, min(num, len(indices))).round().astype(np.int64)]


def augmentation_draws(seed: int, step: int, num: int) -> Float[Tensor, " num"]:
    """Draw a number in [0, 1) for each item of a training batch, over all processes."""
    return torch.from_numpy(np.random.default_rng([seed, step, 1]).random(num, np.float32))


def nothing_missing(items: Tensor) -> None:
    """Return None, the mask of items in which every value is present."""


def _chosen(rows: Tensor, indices: Tensor | None) -> Tensor:
    return rows if indices is None else rows[indices]


def _to_codes(items: Tensor) -> Tensor:
    return items.long()


def _fits(device: torch.device, num_bytes: int) -> bool:
    """Return True if data fits on the device and leaves enough memory for training."""
    if device.type == "cuda":
        return num_bytes < torch.cuda.mem_get_info(device)[0] / 2
    return device.type == "cpu"


def _copy_to_device(host: Tensor, chosen: Tensor | None, device: torch.device, chunk: int) -> Tensor:
    count = len(host) if chosen is None else len(chosen)
    resident = torch.empty((count, *host.shape[1:]), dtype=host.dtype, device=device)
    for start in range(0, count, chunk):
        stop = min(start + chunk, count)
        resident[start:stop] = host[start:stop] if chosen is None else host[chosen[start:stop]]
    return resident
