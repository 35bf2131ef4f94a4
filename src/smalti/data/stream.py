"""Training batches from a source whose decoded items are not stored: they are decoded as they are needed.

The items of a split are divided into shards, consecutive sections of it. In each epoch, the shards come in
another order; as many consecutive ones as fill the buffer are shuffled together. Both are functions of the
seed and the epoch, so a batch is a function of its step alone, and a resumed run sees the same batches.

With several processes, each reads every W-th shard of an epoch's order, and no other one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.data.condition_names import ConditionNames
from smalti.data.crops import CropLoader
from smalti.data.in_memory import in_memory
from smalti.data.ingest import checked, decode_ahead, decoded_item, readable
from smalti.data.loader import Loader, augmentation_draws
from smalti.data.loaders import joined, loader_of
from smalti.data.sources.base import Source, UnreadableItem
from smalti.data.store_layout import Decoded

SHARD = 256
"""Most items of a shard; a smaller buffer has smaller ones."""
LEAST_SHARDS = 4
"""Shards of a buffer, unless there are fewer items."""

Group = tuple[int, ...]
"""Shards that are shuffled together."""


class Place(NamedTuple):
    """Place in the endless stream of a process: an epoch, a group of it, and a number in the group."""

    epoch: int
    group: int
    number: int


@final
@dataclass(frozen=True, eq=False)
class _Buffer:
    """Decoded items of a group.

    Attributes:
        loader: of the items that could be read.
        chosen: for each item of the group, the number of the one in the loader that stands for it.
    """

    loader: Loader | CropLoader
    chosen: Int64[np.ndarray, " n"]

    @property
    def num_positions(self) -> int | None:
        """Number of positions of all items; None for items of one size."""
        return self.loader.num_positions if isinstance(self.loader, CropLoader) else None

    def batch(self, drawn: Int64[np.ndarray, " b"], draws: Tensor | None) -> Batch:
        """Return items, or crops around positions of all items, as one batch, augmented by draws."""
        if isinstance(self.loader, CropLoader):
            return self.loader.centred(drawn, draws)
        return self.loader.items(self.chosen[drawn], draws)


@final
class StreamLoader:
    """Shuffled batches of items that are decoded while training goes on.

    Each item comes `crops` times an epoch. Of items that differ in size, an epoch has as many crops, around
    positions drawn uniformly from all items of a buffer, as `CropLoader` draws them from all items.

    It holds two buffers of decoded items: that of the current batch, and the one after it, which a thread
    decodes meanwhile, and for a moment a second copy of that one. An item that cannot be read is listed; the
    next one of its buffer stands for it.

    Args:
        source: of the items.
        split: of the source.
        modality: of the items.
        batch_size: items in a batch, over all processes.
        buffer: number of items that are shuffled together.
        crops: number of times that an item comes in an epoch.
        seed: of the order, 0 or more.
        device: of the batches.
        begin: first item of the split that is used.
        names: of the conditions of the items.

    Raises:
        InputError: if there is no item.
    """

    def __init__(
        self,
        source: Source,
        split: str,
        modality: Modality,
        *,
        batch_size: int,
        buffer: int,
        crops: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        begin: int = 0,
        names: ConditionNames | None = None,
    ) -> None:
        self.num_items = source.count(split) - begin
        if self.num_items < 1:
            raise InputError(
                f"expected items to train on in the split {split} of {source.description}, received "
                f"{self.num_items + begin}, of which {begin} are held out: add data, or lower "
                "validation_fraction"
            )
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self.skipped: dict[str, str] = {}
        """Reason for each item that could not be read, by name."""
        self._source, self._split, self._begin = source, split, begin
        self._modality, self._decoder = modality, modality.for_training()
        self._crops, self._names = crops, ConditionNames() if names is None else names
        self._shard = max(1, min(SHARD, buffer // LEAST_SHARDS))
        self._at_once = max(1, buffer // self._shard)
        self._decoding = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._is_closed = False
        self._buffers: dict[Group, Future[_Buffer]] = {}
        self._ends_of_epochs: dict[tuple[int, int], list[int]] = {}
        # Caches of the instance, which end with it.
        self._groups = lru_cache(maxsize=64)(self._find_groups)
        self._ends = lru_cache(maxsize=64)(self._find_ends)
        self._order = lru_cache(maxsize=4)(self._draw_order)

    @property
    def count(self) -> int:
        """Number of items or crops in an epoch, over all processes."""
        return self.num_items * self._crops

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_items // self._shard)

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
        """Yield the first `num` items or crops that training sees, or all of an epoch, in batches."""
        num = min(num, self.count)
        for begin in range(0, num, self.batch_size):
            places = [self._place(index, 0, 1) for index in range(begin, min(begin + self.batch_size, num))]
            yield self._gathered(places, 0, 1)

    def items(self, positions: Int64[np.ndarray, " b"]) -> Batch:
        """Return items or crops at these positions of the first epoch as one batch."""
        return self._gathered([self._place(int(index), 0, 1) for index in positions], 0, 1)

    def close(self) -> None:
        """Stop decoding ahead; the loader cannot be used any more."""
        self._is_closed = True
        self._buffers.clear()
        self._decoding.shutdown(wait=True, cancel_futures=True)

    def _place(self, position: int, rank: int, world: int) -> Place:
        """Place of a position in the endless stream of a process."""
        if world == 1:
            epoch, position = divmod(position, self.count)
        else:
            so_far = self._ends_of_epochs.setdefault((rank, world), [0])
            while position >= so_far[-1]:
                so_far.append(so_far[-1] + self._ends(len(so_far) - 1, rank, world)[-1])
            epoch = bisect_right(so_far, position) - 1
            position -= so_far[epoch]
        ends = self._ends(epoch, rank, world)
        group = int(np.searchsorted(ends, position, side="right"))
        return Place(epoch, group, position - (ends[group - 1] if group else 0))

    def _gathered(self, places: Sequence[Place], rank: int, world: int, draws: Tensor | None = None) -> Batch:
        parts, done = [], 0
        for (epoch, group), run in groupby(places, lambda place: place[:2]):
            numbers = [place.number for place in run]
            own = None if draws is None else draws[done : done + len(numbers)]
            buffer = self._buffer(epoch, group, rank, world)
            drawn = self._order(epoch, group, rank, world, len(buffer.chosen), buffer.num_positions)
            parts.append(buffer.batch(drawn[numbers], own))
            done += len(numbers)
        batch = joined(parts)
        if not self._names.classes or "label" in batch.conditions:
            return batch
        # None of these items has a label, but others do.
        label = torch.full((len(batch.data),), -1, device=batch.data.device)
        return replace(batch, conditions=Conditions(**batch.conditions, label=label))

    def _find_groups(self, epoch: int, rank: int, world: int) -> list[Group]:
        """Shards of an epoch of a process, those that are shuffled together in one group."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_shards)[rank::world].tolist()
        return [tuple(sorted(order[at : at + self._at_once])) for at in range(0, len(order), self._at_once)]

    def _find_ends(self, epoch: int, rank: int, world: int) -> list[int]:
        """Number of items or crops up to the end of each group of an epoch."""
        sizes = [self._crops * sum(map(self._size, group)) for group in self._groups(epoch, rank, world)]
        return np.cumsum(sizes).tolist()

    def _draw_order(
        self, epoch: int, group: int, rank: int, world: int, num: int, positions: int | None
    ) -> Int64[np.ndarray, " n"]:
        """Numbers of the items of a group in an epoch's order, or the positions around which crops are cut.

        Args:
            epoch, group, rank, world: of the group.
            num: its items.
            positions: of all its items; None for items of one size.
        """
        draws = np.random.default_rng([self.seed, epoch, rank, group])
        if positions is None:
            return draws.permutation(num * self._crops) % num
        return draws.integers(positions, size=num * self._crops)

    def _size(self, shard: int) -> int:
        return min(self._shard, self.num_items - shard * self._shard)

    def _buffer(self, epoch: int, group: int, rank: int, world: int) -> _Buffer:
        """Decoded items of a group; lets go of all but it and the next one, which is decoded ahead."""
        groups = self._groups(epoch, rank, world)
        is_last = group + 1 == len(groups)
        following = self._groups(epoch + 1, rank, world)[0] if is_last else groups[group + 1]
        wanted = (groups[group], following)
        if any(each not in self._buffers for each in wanted):
            for each in [each for each in self._buffers if each not in wanted]:
                self._buffers.pop(each).cancel()
            for each in dict.fromkeys(wanted):
                if each not in self._buffers:
                    self._buffers[each] = self._decoding.submit(self._read, each)
        return self._buffers[groups[group]].result()

    def _read(self, group: Group) -> _Buffer:
        items: list[Decoded] = []
        places: list[int] = []
        """Number among the readable items of each item, or of the next readable one."""
        for shard in group:
            self._read_shard(shard, items, places)
        following = iter(range(self.num_shards))
        while not items:
            # No item of the group can be read: another shard stands for it.
            shard = next(following, None)
            if shard is None:
                raise InputError(
                    f"expected items that can be read in {self._source.description}, received none among "
                    f"{self.num_items}, such as {next(iter(self.skipped.items()))}: check the data"
                )
            self._read_shard(shard, items, [])
        store = in_memory(items, self._decoder, self._names)
        loader = loader_of(
            store, self._modality, batch_size=self.batch_size, device=self.device, is_resident=False
        )
        return _Buffer(loader, np.array(places, np.int64) % len(items))

    def _read_shard(self, shard: int, items: list[Decoded], places: list[int]) -> None:
        """Decode the items of a shard, and add them and the places of all its items to the lists."""
        begin, size = self._begin + shard * self._shard, self._size(shard)
        done = 0
        section = self._source.section(self._split, begin, begin + size)
        for item, read in decode_ahead(section, self._decoder.decode, self._decoder.readers):
            if self._is_closed:
                raise CancelledError
            result = checked(item, read)
            places.append(len(items))
            done += 1
            if isinstance(result, UnreadableItem):
                self.skipped[readable(item.name)] = readable(str(result))
            else:
                items.append(decoded_item(item, result))
        if done != size:
            raise InputError(
                f"expected {size} items from number {begin} of {self._source.description}, received {done}: "
                "restore the data"
            )
