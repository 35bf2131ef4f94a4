"""Training batches from a source whose decoded items are not stored: they are decoded as they are needed.

The items of a split are divided into shards, consecutive sections of it. In each epoch, the shards come in
another order; as many consecutive ones as fill the buffer are shuffled together. Both are functions of the
seed and the epoch, so a batch is a function of its step alone, and a resumed run sees the same batches.

With several processes, each reads every W-th shard of an epoch's order, and no other one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.data.ingest import decode_ahead, readable
from smalti.data.loader import augmentation_draws
from smalti.data.sources.base import Source, UnreadableItem

SHARD = 256
"""Most items of a shard; a smaller buffer has smaller ones."""
LEAST_SHARDS = 4
"""Shards of a buffer, unless there are fewer items."""


@final
class StreamLoader:
    """Shuffled batches of items that are decoded while training goes on.

    It holds two buffers of decoded items: that of the current batch, and the one after it, which a thread
    decodes meanwhile. An item that cannot be read is replaced by the next one of its shard, and listed.

    Args:
        source: of the items.
        split: of the source.
        modality: of the items, which have one size.
        batch_size: items in a batch, over all processes.
        buffer: number of items that are shuffled together.
        seed: of the order, 0 or more.
        device: of the batches.
        begin: first item of the split that is used.
        classes: class names by id, of the labels that become a condition; none for unlabelled items.

    Raises:
        InputError: if the modality's items differ in size, or there is no item.
    """

    def __init__(
        self,
        source: Source,
        split: str,
        modality: Modality,
        *,
        batch_size: int,
        buffer: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        begin: int = 0,
        classes: Sequence[str] = (),
    ) -> None:
        if modality.is_ragged:
            raise InputError(
                f"expected items of one size for data.stream=true, received {modality.plural_name} of any "
                "size or length: set data.stream=false, or, for pictures, another data.crop than random"
            )
        self.count = source.count(split) - begin
        if self.count < 1:
            raise InputError(
                f"expected items to train on in the split {split} of {source.description}, received "
                f"{self.count + begin}, of which {begin} are held out: add data, or lower validation_fraction"
            )
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self.skipped: dict[str, str] = {}
        """Reason for each item that could not be read, by name."""
        self._source, self._split, self._modality, self._begin = source, split, modality, begin
        self._shard = max(1, min(SHARD, buffer // LEAST_SHARDS))
        self._at_once = max(1, buffer // self._shard)
        self._ids = {name: index for index, name in enumerate(classes)}
        self._decoding = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._shards: dict[int, Future[tuple[np.ndarray, np.ndarray]]] = {}

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.count // self._shard)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Return one process's share of batch number `step`; see `Loader.batch`.

        Raises:
            InputError: if the batch cannot be shared equally, there are fewer shards than processes, or no
                item of a shard can be read.
        """
        if self.batch_size % world or self.num_shards < world:
            raise InputError(
                f"expected a batch size that {world} processes can share equally, and a shard for each, "
                f"received {self.batch_size} and {self.num_shards} shards: choose a multiple of {world}, or "
                "a smaller data.stream_buffer"
            )
        share = self.batch_size // world
        places = [self._place(step * share + index, rank, world) for index in range(share)]
        draws = augmentation_draws(self.seed, step, self.batch_size)[rank * share : (rank + 1) * share]
        return self._gathered(places, rank, world, draws)

    def sequential(self, num: int) -> Iterator[Batch]:
        """Yield the first `num` items that training sees, or all, in batches."""
        num = min(num, self.count)
        for begin in range(0, num, self.batch_size):
            places = [self._place(index, 0, 1) for index in range(begin, min(begin + self.batch_size, num))]
            yield self._gathered(places, 0, 1)

    def items(self, positions: Int64[np.ndarray, " b"]) -> Batch:
        """Return items at these positions of the first epoch as one batch."""
        return self._gathered([self._place(int(index), 0, 1) for index in positions], 0, 1)

    def close(self) -> None:
        """Stop decoding ahead; the loader cannot be used any more."""
        self._decoding.shutdown(wait=True, cancel_futures=True)

    def _place(self, position: int, rank: int, world: int) -> tuple[int, int, int]:
        """Epoch, group and number in the group of a position in the endless stream of a process."""
        epoch = 0
        while position >= (num := self._sizes(epoch, rank, world)[-1]):
            position, epoch = position - num, epoch + 1
        ends = self._sizes(epoch, rank, world)
        group = int(np.searchsorted(ends, position, side="right"))
        return epoch, group, position - (ends[group - 1] if group else 0)

    def _gathered(
        self, places: Sequence[tuple[int, int, int]], rank: int, world: int, draws: Tensor | None = None
    ) -> Batch:
        arrays, labels = [], []
        for epoch, group, number in places:
            shard, item = self._order(epoch, group, rank, world)[number]
            signals, ids = self._decoded(epoch, group, int(shard), rank, world)
            arrays.append(signals[item])
            labels.append(ids[item])
        stored = torch.from_numpy(np.stack(arrays)).to(self.device)
        if draws is not None:
            stored = self._modality.augment(stored, draws.to(self.device))
        label = torch.tensor(labels, device=self.device) if self._ids else None
        data, mask = self._modality.to_model(stored), self._modality.mask(stored)
        return Batch(data, Conditions(label=label), mask=mask)

    @lru_cache(maxsize=64)  # noqa: B019 - a run has one loader
    def _groups(self, epoch: int, rank: int, world: int) -> list[np.ndarray]:
        """Shards of an epoch of a process, those that are shuffled together in one array."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_shards)[rank::world]
        return [order[at : at + self._at_once] for at in range(0, len(order), self._at_once)]

    @lru_cache(maxsize=4096)  # noqa: B019
    def _sizes(self, epoch: int, rank: int, world: int) -> list[int]:
        """Number of items up to the end of each group of an epoch."""
        sizes = [sum(map(self._size, group.tolist())) for group in self._groups(epoch, rank, world)]
        return np.cumsum(sizes).tolist()

    @lru_cache(maxsize=4)  # noqa: B019
    def _order(self, epoch: int, group: int, rank: int, world: int) -> Int64[np.ndarray, "n 2"]:
        """Shard and number in it of each item of a group, shuffled."""
        shards = self._groups(epoch, rank, world)[group].tolist()
        items = np.array([(shard, item) for shard in shards for item in range(self._size(shard))])
        return np.random.default_rng([self.seed, epoch, rank, group]).permutation(items)

    def _size(self, shard: int) -> int:
        return min(self._shard, self.count - shard * self._shard)

    def _decoded(
        self, epoch: int, group: int, shard: int, rank: int, world: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Items and label ids of a shard; lets go of all but its group and the next, which are decoded."""
        groups = self._groups(epoch, rank, world)
        is_last = group + 1 == len(groups)
        following = self._groups(epoch + 1, rank, world)[0] if is_last else groups[group + 1]
        wanted = [*groups[group].tolist(), *following.tolist()]
        if shard not in self._shards or any(each not in self._shards for each in wanted):
            kept = {each: self._shards[each] for each in wanted if each in self._shards}
            for each, future in self._shards.items():
                if each not in kept:
                    future.cancel()
            self._shards = kept
            for each in wanted:
                if each not in kept:
                    kept[each] = self._decoding.submit(self._read, each)
        return self._shards[shard].result()

    def _read(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        begin = self._begin + shard * self._shard
        items = self._source.section(self._split, begin, begin + self._size(shard))
        arrays: list[np.ndarray] = []
        ids: list[int] = []
        places: list[int] = []
        """Place among the readable items of each item, or of the next readable one."""
        for item, read in decode_ahead(items, self._modality.decode, self._modality.readers):
            places.append(len(arrays))
            if isinstance(read, UnreadableItem):
                self.skipped[readable(item.name)] = readable(str(read))
                continue
            arrays.append(read)
            ids.append(-1 if item.label is None else self._ids.get(readable(item.label), -1))
        if not arrays or len(places) != self._size(shard):
            raise InputError(
                f"expected {self._size(shard)} items from number {begin} of {self._source.description}, "
                f"received {len(places)}, of which {len(arrays)} can be read: check the data"
            )
        chosen = np.array(places) % len(arrays)
        return np.stack(arrays)[chosen], np.array(ids)[chosen]
