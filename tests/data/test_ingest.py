"""Decoding a source into a store: in its order, by threads, with what could not be read listed."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from smalti.core.errors import InputError
from smalti.data import ingest
from smalti.data.ingest import WINDOW, build_store
from smalti.data.sources.base import Item, Source, UnreadableItem
from smalti.data.store import Store

SHAPE, DTYPE = (1, 2, 3), np.dtype(np.uint8)


class FakeSource(Source):
    description = "a fake folder"
    splits = ("train",)

    def __init__(self, items: list[Item]) -> None:
        self.all = items

    def count(self, split):
        return len(self.all)

    def items(self, split):
        yield from self.all


def items(count: int, classes=("cat", "ant")) -> list[Item]:
    return [Item(f"{i}.png", bytes([i]), classes[i % len(classes)]) for i in range(count)]


def decode(content: bytes) -> np.ndarray:
    if not content:
        raise UnreadableItem("the file is empty")
    return np.full((1, 2, 3), content[0], np.uint8)


def build(directory: Path, source: list[Item], **options) -> Store:
    protocol = {"size": [2, 3]}
    return build_store(directory, FakeSource(source), "train", decode, protocol, SHAPE, DTYPE, **options)


@pytest.mark.parametrize("workers", [1, 3, None])
def test_order_classes_and_description(tmp_path: Path, workers):
    store = build(tmp_path / "s", items(50), workers=workers)
    assert store.signals[:, 0, 0, 0].tolist() == list(range(50))
    assert store.names == tuple(f"{i}.png" for i in range(50))
    assert store.classes == ("ant", "cat")
    assert store.labels.tolist() == [1, 0] * 25
    assert (store.source, store.split) == ("a fake folder", "train")
    assert store.protocol == {"size": [2, 3]}


def test_order_does_not_depend_on_who_is_faster(tmp_path: Path):
    def slow_first(content):
        time.sleep(0.02 if content[0] % 4 == 0 else 0)
        return decode(content)

    source = FakeSource(items(12))
    store = build_store(tmp_path / "s", source, "train", slow_first, {}, SHAPE, DTYPE, workers=4)
    assert store.signals[:, 0, 0, 0].tolist() == list(range(12))


def test_unreadable_items_are_listed(tmp_path: Path):
    source = items(6)
    source[1] = Item("broken.png", b"", "only here")
    source[4] = Item("caf\udce9.png", b"", None)
    calls = []
    store = build(tmp_path / "s", source, progress=lambda done, total: calls.append((done, total)))
    assert store.signals[:, 0, 0, 0].tolist() == [0, 2, 3, 5]
    assert store.skipped == [
        {"name": "broken.png", "reason": "the file is empty"},
        {"name": "caf\\udce9.png", "reason": "the file is empty"},
    ]
    assert store.classes == ("ant", "cat")
    assert calls == [(done, 6) for done in range(1, 7)]


def test_names_that_are_no_unicode(tmp_path: Path):
    store = build(tmp_path / "s", [Item("caf\udce9", b"a", "\udce9")])
    assert (store.names, store.classes) == (("caf\\udce9",), ("\\udce9",))


def test_all_unreadable(tmp_path: Path):
    broken = [Item("a.png", b""), Item("b.png", b"")]
    sentence = r"none of the 2 items of a fake folder.*first, a\.png: the file is empty\): check"
    with pytest.raises(InputError, match=sentence):
        build(tmp_path / "s", broken)
    assert os.listdir(tmp_path) == []


def test_empty_split(tmp_path: Path):
    with pytest.raises(InputError, match='split "train" of a fake folder has no items'):
        build(tmp_path / "s", [])


def test_unknown_class(tmp_path: Path):
    with pytest.raises(InputError, match=r'received "ant" for 1\.png'):
        build(tmp_path / "s", items(4), classes=["cat"])


def test_a_fault_of_ours_is_not_an_unreadable_item(tmp_path: Path):
    def faulty(content):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build_store(tmp_path / "s", FakeSource(items(4)), "train", faulty, {}, SHAPE, DTYPE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("workers", "batch", "room", "most"),
    [(1, 20, 10**9, 1), (2, 1, 10**9, 2 * WINDOW), (2, 20, 10**9, 2 * WINDOW + 20), (2, 20, 90, 12)],
    ids=["one worker", "no batch", "a batch", "items that hardly fit"],
)
def test_the_window_bounds_what_is_in_memory(monkeypatch, workers, batch, room, most):
    """An item has one byte, and six when it is decoded."""
    monkeypatch.setattr(ingest, "AHEAD_BYTES", room)
    taken = []

    def counted():
        for item in items(100):
            taken.append(item)
            yield item

    ahead = [
        len(taken) - done for done, _ in enumerate(ingest.decode_ahead(counted(), decode, workers, batch))
    ]
    assert max(ahead) == most


def test_a_large_item_ends_far_windows(monkeypatch):
    monkeypatch.setattr(ingest, "AHEAD_BYTES", 10_000)
    taken = []

    def counted():
        for index, item in enumerate(items(100)):
            taken.append(item)
            yield item if index != 40 else Item("large", bytes(5_000), None)

    ahead = [len(taken) - done for done, _ in enumerate(ingest.decode_ahead(counted(), decode, 2, 20))]
    assert max(ahead[:40]) == 2 * WINDOW + 20
    assert max(ahead[70:]) <= 2 * WINDOW


def test_more_levels_need_more_bytes(tmp_path: Path):
    wide = np.array([[999, 3]], np.int16)
    store = build_store(
        tmp_path / "s", FakeSource(items(1)), "train", lambda _: wide, {}, (1, 2), np.dtype(np.int16)
    )
    assert store.signals.tolist() == [[[999, 3]]]
