"""Batches of items that are decoded as training goes on."""

from __future__ import annotations

import dataclasses
import gc
import io
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.data.condition_names import ConditionNames
from smalti.data.sources import Item, Source
from smalti.data.stream import StreamLoader
from smalti.modalities.audio.modality import AudioConfig
from smalti.modalities.image.modality import ImageConfig

PICTURES = ImageConfig(size=(1, 1), channels=1).build()
SOUNDS = AudioConfig(sample_rate_hz=8000, length=8, encoding="linear").build()


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


def wav(level: int, length: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(length, level, np.int16), 8000, format="WAV")
    return file.getvalue()


class Sounds(Source):
    """Sounds of one level each; the middle third is three times, the last five times as long as the first."""

    def __init__(self, count: int, broken: frozenset[int] = frozenset()) -> None:
        self.description, self.splits = "sounds", ("all",)
        self._count, self._broken = count, broken

    @staticmethod
    def length(index: int) -> int:
        return 6 * (1 + 2 * (index // 20))

    def count(self, split: str) -> int:
        return self._count

    def items(self, split: str) -> Iterator[Item]:
        for index in range(self._count):
            columns = {} if index % 3 == 0 else {"mood": ("calm", "glad")[index % 3 - 1]}
            content = b"" if index in self._broken else wav(index, self.length(index))
            yield Item(str(index), content, label="odd" if index % 2 else "even", columns=columns)


def levels_of(batch: Batch) -> torch.Tensor:
    zero = int(SOUNDS.decode(wav(0, 1))[0, 0])
    return SOUNDS.to_stored(batch.data)[:, 0].long() - zero


def sounds(source: Source, **settings: Any) -> StreamLoader:
    names = ConditionNames.of_split(source, "all")
    return StreamLoader(source, "all", SOUNDS, batch_size=6, buffer=20, names=names, **settings)


def loader(source: Source, batch_size: int = 6, buffer: int = 20, **settings: Any) -> StreamLoader:
    settings = {"names": ConditionNames(classes=("even", "odd"))} | settings
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
        held = max(held, sum(future.result().loader.count for future in own._buffers.values()))
    assert held == 40


def test_labels_are_those_of_the_items() -> None:
    own = loader(Numbers(40), names=ConditionNames.of_split(Numbers(40), "all"))
    batch = own.batch(2)
    label = batch.conditions.tensor("label")
    assert label is not None
    assert torch.equal(label, PICTURES.to_stored(batch.data).flatten().long() % 2)
    with pytest.raises(InputError, match="known classes"):
        loader(Numbers(40), names=ConditionNames()).batch(0)


def test_crops_of_items_of_different_lengths() -> None:
    """A long item has more crops, none leaves its item, and a batch depends on its step alone."""
    own = sounds(Sounds(60), crops=2)
    assert own.count == 120
    batches = [own.batch(step) for step in range(20)]
    seen: Counter[int] = Counter()
    for batch in batches:
        speaker = batch.conditions.tensor("label")
        levels = levels_of(batch)
        assert levels.shape == (6, 8)
        assert speaker is not None
        assert torch.equal(speaker, levels[:, 0].long() % 2)
        mood = batch.conditions["mood"].data
        lengths = torch.full((6,), 8) if batch.lengths is None else batch.lengths
        for row, length, index, id_ in zip(
            levels, lengths, levels[:, 0].tolist(), mood.tolist(), strict=True
        ):
            assert (row[:length] == index).all()
            assert length == min(8, Sounds.length(index))
            assert id_ == (-1 if index % 3 == 0 else index % 3 - 1)
            seen[index] += 1
    # Items 40 to 59 are five times as long as the first 20; buffers differ in their lengths.
    assert sum(seen[index] for index in range(40, 60)) > 2 * sum(seen[index] for index in range(20))
    again = sounds(Sounds(60), crops=2)
    for step in (13, 2):
        assert torch.equal(again.batch(step).data, batches[step].data)


def test_ragged_items_that_cannot_be_read_have_no_crops() -> None:
    own = sounds(Sounds(24, frozenset({3, 9})))
    levels = torch.cat([levels_of(own.batch(step))[:, 0] for step in range(8)])
    assert not {3, 9} & {*levels.tolist()}
    assert own.skipped.keys() == {"3", "9"}


def test_unreadable_items_are_replaced_and_listed() -> None:
    own = loader(Numbers(20, frozenset({3, 9})), batch_size=20)
    # The next one stands for it: 4 for 3, and 10 for 9.
    assert Counter(levels(own, 0)) == Counter([*range(20), 4, 10]) - Counter([3, 9])
    assert own.skipped.keys() == {"3", "9"}


def test_a_small_buffer_without_a_readable_item_is_filled_by_another() -> None:
    own = loader(Numbers(12, frozenset({3, 4, 5})), batch_size=12, buffer=2)
    taken = levels(own, 0)
    assert len(taken) == 12
    assert not {3, 4, 5} & {*taken}
    assert {*range(12)} - {3, 4, 5} <= {*taken}
    assert own.skipped.keys() == {"3", "4", "5"}


def test_a_batch_without_labels_has_the_condition() -> None:
    """At every step, so that a resumed run begins as it goes on."""

    class Half(Numbers):
        def section(self, split: str, begin: int, end: int) -> Iterator[Item]:
            for item in super().section(split, begin, end):
                yield dataclasses.replace(item, label="even" if int(item.name) < 10 else None)

    own = loader(Half(40), batch_size=2, buffer=4, names=ConditionNames(classes=("even",)))
    for step in range(20):
        label = own.batch(step).conditions.tensor("label")
        assert label is not None
        assert label.tolist() == [0 if level < 10 else -1 for level in levels(own, step)]


def test_far_epochs_are_found_at_once() -> None:
    """Also by ranks whose shards differ in size."""
    own = loader(Numbers(25), batch_size=5)
    for epoch in (0, 9000):
        taken = [level for step in range(5) for level in levels(own, 5 * epoch + step)]
        assert sorted(taken) == list(range(25))
    two = loader(Numbers(25), batch_size=2)
    far = [levels(two, 50_000 + step, rank, 2)[0] for rank in range(2) for step in range(40)]
    assert {*far} <= {*range(25)}
    again = loader(Numbers(25), batch_size=2)
    assert [levels(again, 50_000 + step, rank, 2)[0] for rank in range(2) for step in range(40)] == far


def test_a_closed_loader_is_let_go() -> None:
    own = loader(Numbers(40))
    own.batch(3)
    own.close()
    kept = weakref.ref(own)
    del own
    gc.collect()
    assert kept() is None


def test_what_cannot_be_streamed() -> None:
    with pytest.raises(InputError):
        loader(Numbers(8, frozenset(range(8)))).batch(0)
    with pytest.raises(InputError):
        loader(Numbers(8), begin=8)
    with pytest.raises(InputError):
        loader(Numbers(8)).batch(0, 0, 4)
