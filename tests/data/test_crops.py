"""Crops: drawn evenly from every place, a function of their step, shared by ranks; whole items padded."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.data.crops import CropLoader
from smalti.data.store import Store

LENGTHS = (5, 2, 9, 4, 1)
PADDING = 7
quick = settings(max_examples=40, deadline=None)
steps = st.integers(0, 10**12)
seeds = st.integers(0, 2**32 - 1)


def items(lengths=LENGTHS) -> list[np.ndarray]:
    """Items `(2, T)`: above, item and place in one number; below, a thousand more."""
    above = [100 * (index + 1) + np.arange(length) for index, length in enumerate(lengths)]
    return [np.stack([line, line + 1000]).astype(np.int32) for line in above]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    labels = ["b", None, "a", "b", "c"]
    named = [(f"{i}", item, label) for i, (item, label) in enumerate(zip(items(), labels, strict=True))]
    return Store.write(tmp_path_factory.mktemp("data") / "s", named, (2, None), "int32")


def loader(store: Store, length: int = 4, batch_size: int = 6, **options) -> CropLoader:
    return CropLoader(store, size=(length,), batch_size=batch_size, padding=PADDING, **options)


def parts(batch: Batch) -> list[np.ndarray]:
    """The crops of a batch, without their padding, which is checked."""
    width = batch.data.shape[-1]
    lengths = [width] * len(batch.data) if batch.lengths is None else batch.lengths.tolist()
    found = []
    for crop, length in zip(batch.data.numpy(), lengths, strict=True):
        assert 1 <= length <= width
        assert (crop[:, length:] == PADDING).all()
        found.append(crop[:, :length])
    return found


def place(part: np.ndarray) -> tuple[int, int]:
    """Item and first place of a crop that is a stretch of one item."""
    index, begin = divmod(int(part[0, 0]), 100)
    np.testing.assert_array_equal(part, items()[index - 1][:, begin : begin + part.shape[1]])
    return index - 1, begin


class TestCrops:
    @pytest.mark.parametrize("length", [1, 3, 4, 20])
    def test_are_stretches_of_items_and_short_ones_say_where_they_end(self, store, length):
        crops = loader(store, length)
        for step in range(30):
            batch = crops.batch(step)
            assert batch.data.shape == (6, 2, length)
            assert batch.data.dtype == torch.int64
            found = parts(batch)
            assert (batch.lengths is None) == all(part.shape[1] == length for part in found)
            for part in found:
                item, begin = place(part)
                assert part.shape[1] == min(length, LENGTHS[item])
                assert begin == 0 or LENGTHS[item] - begin >= length

    @pytest.mark.parametrize("num", [1, 7, 21, 100])
    def test_spread_evenly_have_centres_at_equal_distances(self, store, num):
        batches = list(loader(store, length=1).spread(num, batch_size=5))
        assert [len(batch.data) for batch in batches[:-1]] == [5] * ((num - 1) // 5)
        ends = np.cumsum(LENGTHS)
        found = [place(part) for batch in batches for part in parts(batch)]
        centres = np.array([ends[item] - LENGTHS[item] + begin for item, begin in found])
        expected = (np.arange(num) + 0.5) * ends[-1] / num
        assert (np.abs(centres + 0.5 - expected) <= 0.5).all()

    def test_spread_evenly_stay_inside_their_items(self, store):
        (batch,) = loader(store, length=4).spread(6)
        assert {place(part)[0] for part in parts(batch)} <= set(range(len(LENGTHS)))

    @pytest.mark.parametrize("length", [1, 4, 20])
    def test_come_evenly_from_all_places(self, store, length):
        """Every place is the middle equally often, the crop moved inside where it would leave its item."""
        shares: dict[int, float] = {}
        for item, full in enumerate(LENGTHS):
            for middle in range(full):
                begin = min(max(0, middle - length // 2), max(0, full - length))
                key = 100 * (item + 1) + begin
                shares[key] = shares.get(key, 0) + 1 / sum(LENGTHS)
        crops, n = loader(store, length, batch_size=500), 500 * 40
        first = np.concatenate([crops.batch(step).data[:, 0, 0].numpy() for step in range(40)])
        found, counts = np.unique(first, return_counts=True)
        assert found.tolist() == sorted(shares)
        p = np.array([shares[key] for key in found.tolist()])
        assert (np.abs(counts / n - p) < 4.5 * (p * (1 - p) / n) ** 0.5).all()

    def test_short_items_have_their_share(self, store):
        """An item is drawn as often as it is long, however long the crops."""
        crops = loader(store, 20, batch_size=1000)
        items = np.concatenate([crops.batch(step).data[:, 0, 0].numpy() // 100 - 1 for step in range(20)])
        share = np.bincount(items, minlength=len(LENGTHS)) / len(items)
        np.testing.assert_allclose(share, np.array(LENGTHS) / sum(LENGTHS), atol=0.02)

    @quick
    @given(st.lists(steps, min_size=1, max_size=5), seeds)
    def test_a_batch_depends_on_its_step_alone(self, store, given_steps, seed):
        used = loader(store, seed=seed)
        for step in given_steps:
            fresh = loader(store, seed=seed).batch(step)
            assert torch.equal(used.batch(step).data, fresh.data)

    def test_steps_and_seeds_differ(self, store):
        batches = [loader(store, seed=seed).batch(step).data for seed in range(3) for step in range(3)]
        assert len({tuple(batch.flatten().tolist()) for batch in batches}) == 9

    @quick
    @given(st.integers(1, 5), st.integers(1, 4), steps, seeds)
    def test_shares_of_ranks_are_the_batch(self, store, share, world, step, seed):
        crops = loader(store, batch_size=share * world, seed=seed)
        whole = parts(crops.batch(step))
        of_ranks = [crops.batch(step, rank, world) for rank in range(world)]
        assert all(len(batch.data) == share for batch in of_ranks)
        for one, other in zip(chain(*map(parts, of_ranks)), whole, strict=True):
            np.testing.assert_array_equal(one, other)
        labels = torch.cat([batch.conditions["label"].data for batch in of_ranks])
        assert torch.equal(labels, crops.batch(step).conditions["label"].data)

    def test_as_much_goes_by_in_an_epoch_as_there_is(self, store):
        assert loader(store, length=3, batch_size=2).steps_per_epoch == pytest.approx(21 / 3 / 2)
        assert loader(store, length=100, batch_size=2).steps_per_epoch == 0.5

    def test_to_model(self, store):
        crops = loader(store, to_model=lambda levels: levels.float() / 2)
        assert torch.equal(crops.batch(3).data, loader(store).batch(3).data / 2)


class TestLabels:
    LABELS = np.array([1, -1, 0, 1, 2])

    def given(self, crops: CropLoader, step: int) -> list[tuple[int, int]]:
        batch = crops.batch(step)
        return list(
            zip([place(p)[0] for p in parts(batch)], batch.conditions["label"].data.tolist(), strict=True)
        )

    def test_go_with_their_crops(self, store):
        for step in range(10):
            assert all(label == self.LABELS[item] for item, label in self.given(loader(store), step))

    def test_others_may_be_given(self, store):
        others = np.array([9, 8, -1, 6, 5])
        crops = loader(store, labels=others)
        assert all(label == others[item] for item, label in self.given(crops, 0))

    def test_none(self, store):
        assert loader(store, labels=np.full(5, -1)).batch(0).conditions.tensor("label") is None
        assert loader(store, indices=np.array([1])).batch(0).conditions.tensor("label") is None


class TestChosen:
    CHOSEN = np.array([2, 0])

    def test_only_they_are_cropped(self, store):
        crops = loader(store, indices=self.CHOSEN)
        assert crops.count == 2
        batches = [crops.batch(step) for step in range(20)]
        found = {place(part) for batch in batches for part in parts(batch)}
        assert found == {(2, begin) for begin in range(6)} | {(0, begin) for begin in range(2)}
        assert {tuple(batch.conditions["label"].data.unique().tolist()) for batch in batches} <= {
            (0, 1),
            (0,),
            (1,),
        }

    def test_in_the_order_that_they_are_named_in(self, store):
        crops = loader(store, indices=self.CHOSEN)
        assert [place(part) for batch in crops.sequential() for part in parts(batch)] == [(2, 0), (0, 0)]
        assert [batch.conditions["label"].data.tolist() for batch in crops.sequential()] == [[0], [1]]


class TestWhole:
    @pytest.mark.parametrize("multiple", [1, 3, 4])
    def test_every_item_once_and_padded_to_a_multiple(self, store, multiple):
        crops = loader(store, strides=(multiple,))
        batches = list(crops.sequential(17))
        assert len(batches) == 5
        for batch, expected in zip(batches, items(), strict=True):
            (part,) = parts(batch)
            np.testing.assert_array_equal(part, expected)
            width = batch.data.shape[-1]
            assert width % multiple == 0
            assert 0 <= width - part.shape[1] < multiple
            assert (batch.lengths is None) == (width == part.shape[1])

    def test_one_of_them(self, store):
        batch = loader(store, indices=np.array([3, 1]), strides=(3,)).whole(1)
        assert [place(part) for part in parts(batch)] == [(1, 0)]
        assert batch.lengths.tolist() == [2]

    @pytest.mark.parametrize("batch_size", [1, 2, None])
    def test_what_is_watched_is_the_middle_crop_of_each(self, store, batch_size):
        batches = list(loader(store, 3, batch_size=4).watch(batch_size))
        assert [len(batch.data) for batch in batches[:-1]] == [batch_size or 4] * (len(batches) - 1)
        found = [place(part) for batch in batches for part in parts(batch)]
        assert found == [(0, 1), (1, 0), (2, 3), (3, 0), (4, 0)]
        labels = [label for batch in batches for label in batch.conditions["label"].data.tolist()]
        assert labels == TestLabels.LABELS.tolist()


class TestRefuses:
    @pytest.mark.parametrize(
        "wrong", [{"length": 0}, {"batch_size": 0}, {"indices": np.array([], np.int64)}], ids=str
    )
    def test_nothing(self, store, wrong):
        with pytest.raises(InputError, match="at least one item, a batch of at least one, and crops"):
            loader(store, **wrong)

    def test_unequal_shares(self, store):
        with pytest.raises(InputError, match="3 processes can share equally, received 8: choose a multiple"):
            loader(store, batch_size=8).batch(0, 0, 3)


def test_other_axes_than_time(tmp_path: Path):
    """Items `(3, F, H, W)`: clips, or codes of several codebooks over their frames."""
    rng = np.random.default_rng(0)
    given_items = [rng.integers(0, 99, (3, length, 2, 4)).astype(np.uint8) for length in (4, 6)]
    named = [(f"{i}", item, None) for i, item in enumerate(given_items)]
    store = Store.write(tmp_path / "s", named, (3, None, 2, 4), "uint8")
    crops = CropLoader(store, size=(5,), batch_size=4)
    for expected, batch in zip(given_items, crops.sequential(), strict=True):
        np.testing.assert_array_equal(batch.data[0].numpy(), expected)
    batch = crops.batch(0)
    assert batch.data.shape == (4, 3, 5, 2, 4)
    assert set(batch.lengths.tolist()) == {4, 5}
    for crop, length in zip(batch.data.numpy(), batch.lengths.tolist(), strict=True):
        item = given_items[0 if length == 4 else 1]
        assert any((crop[:, :length] == item[:, b : b + length]).all() for b in range(2))
        assert (crop[:, length:] == 0).all()
