"""Batches of items that are decoded as training goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from smalti.core.errors import InputError
from smalti.data.sources import Item, Source
from smalti.data.stream import StreamLoader
from smalti.modalities.audio.modality import AudioConfig
from smalti.modalities.image.modality import ImageConfig

PICTURES = ImageConfig(size=(1, 1), channels=1).build()


class Numbers(Source):
    """Pictures of one pixel, each with its own level; some of them are broken."""

    def __init__(self, count: int, broken: frozenset[int] = frozenset()) -> None:
        self.description, self.splits = "numbers", ("all",)
        self._count, self._broken = count, broken
        self.read: list[int] = []

    def count(self, split: str) -> int:
        return self._count

    def items(self, split: str) -> Iterator[Item]:
        return self.section(split, 0, self._count)

    def section(self, split: str, begin: int, end: int) -> Iterator[Item]:
        for index in range(begin, end):
            self.read.append(index)
            content = b"" if index in self._broken else np.full((1, 1), index, np.uint8)
            yield Item(str(index), content, label="odd" if index % 2 else "even")


def loader(source: Source, batch_size: int = 6, buffer: int = 20, **settings: Any) -> StreamLoader:
    return StreamLoader(source, "all", PICTURES, batch_size=batch_size, buffer=buffer, **settings)


def levels(own: StreamLoader, step: int, rank: int = 0, world: int = 1) -> list[int]:
    return PICTURES.to_stored(own.batch(step, rank, world).data).flatten().tolist()


def test_every_item_comes_once_an_epoch() -> None:
    own = loader(Numbers(101), batch_size=1)
    epochs = [[levels(own, 101 * epoch + step)[0] for step in range(101)] for epoch in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(101))] * 2
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])


def test_a_batch_depends_on_its_step_alone() -> None:
    own = loader(Numbers(53))
    expected = [levels(own, step) for step in range(30)]
    for step in (17, 3, 29, 0):
        assert levels(loader(Numbers(53)), step) == expected[step]
        assert levels(own, step) == expected[step]
    assert levels(loader(Numbers(53), seed=1), 0) != expected[0]


def test_ranks_read_shards_of_their_own() -> None:
    sources = [Numbers(120), Numbers(120)]
    own = [loader(source) for source in sources]
    taken = [levels(own[rank], step, rank, 2) for rank in range(2) for step in range(10)]
    # Half an epoch; what is decoded ahead is of the same one.
    assert not {*sources[0].read} & {*sources[1].read}
    taken += [levels(own[rank], step, rank, 2) for rank in range(2) for step in range(10, 20)]
    assert Counter(level for batch in taken for level in batch) == Counter(range(120))


def test_only_two_buffers_are_held() -> None:
    own = loader(Numbers(200), batch_size=1)
    held = 0
    for step in range(150):
        levels(own, step)
        held = max(held, sum(len(future.result()[0]) for future in own._shards.values()))
    assert held == 40


def test_labels_are_those_of_the_items() -> None:
    own = loader(Numbers(40), classes=("even", "odd"))
    batch = own.batch(2)
    label = batch.conditions.tensor("label")
    assert label is not None
    assert torch.equal(label, PICTURES.to_stored(batch.data).flatten().long() % 2)
    assert loader(Numbers(40)).batch(0).conditions.tensor("label") is None


def test_unreadable_items_are_replaced_and_listed() -> None:
    own = loader(Numbers(20, frozenset({3, 9})), batch_size=20)
    # Shards of five items: 4 stands for 3, and 5, the first of its shard, for 9.
    assert Counter(levels(own, 0)) == Counter([*range(20), 4, 5]) - Counter([3, 9])
    assert own.skipped.keys() == {"3", "9"}


def test_what_cannot_be_streamed() -> None:
    with pytest.raises(InputError):
        loader(Numbers(8, frozenset(range(8)))).batch(0)
    with pytest.raises(InputError):
        loader(Numbers(8), begin=8)
    with pytest.raises(InputError):
        loader(Numbers(8)).batch(0, 0, 4)
    with pytest.raises(InputError):
        StreamLoader(Numbers(8), "all", AudioConfig.tiny().build(), batch_size=1, buffer=4)
