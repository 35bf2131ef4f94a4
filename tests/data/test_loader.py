"""Loading: each epoch is a permutation, each batch a function of its step, and ranks share it exactly."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smalti.core.errors import InputError
from smalti.data import loader as loader_module
from smalti.data.loader import Loader, split_indices
from smalti.data.store import Store

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None)


def make(count: int, batch_size: int, seed: int = 0, **options) -> Loader:
    """A loader of items that tell their own number."""
    data = np.arange(count, dtype=np.int32).reshape(count, 1)
    return Loader(data, batch_size=batch_size, seed=seed, **options)


def taken(loader: Loader, step: int, rank: int = 0, world: int = 1) -> list[int]:
    return loader.batch(step, rank, world).data.flatten().tolist()


class TestOrder:
    @quick
    @given(sizes, sizes, seeds)
    def test_each_epoch_is_a_permutation(self, count, batch_size, seed):
        loader = make(count, batch_size, seed)
        stream = [item for step in range(-(-3 * count // batch_size)) for item in taken(loader, step)]
        for epoch in range(3):
            assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))

    @quick
    @given(sizes, sizes, st.integers(1, 6), st.integers(0, 50), seeds)
    def test_shares_of_ranks_are_the_batch(self, count, share, world, step, seed):
        whole = taken(make(count, share * world, seed), step)
        parts = [taken(make(count, share * world, seed), step, rank, world) for rank in range(world)]
        assert [*chain(*parts)] == whole
        assert all(len(part) == share for part in parts)

    @quick
    @given(sizes, sizes, st.lists(st.integers(0, 30), min_size=1, max_size=10), seeds)
    def test_a_batch_depends_on_its_step_alone(self, count, batch_size, steps, seed):
        used = make(count, batch_size, seed)
        for step in steps:
            assert taken(used, step) == taken(make(count, batch_size, seed), step)

    @quick
    @given(sizes, st.integers(1, 20), st.integers(1, 5), seeds)
    def test_batch_size_only_cuts_the_stream(self, count, batch_size, factor, seed):
        small = make(count, batch_size, seed)
        large = taken(make(count, batch_size * factor, seed), 2)
        assert large == [*chain(*(taken(small, 2 * factor + i) for i in range(factor)))]

    def test_epochs_and_seeds_differ(self):
        epochs = [tuple(taken(make(50, 50, seed), step)) for seed in range(3) for step in range(3)]
        assert len(set(epochs)) == 9

    def test_a_far_step(self):
        assert sorted(taken(make(10, 10), 10**12)) == list(range(10))

    def test_the_permutation_is_made_once_an_epoch(self, monkeypatch):
        made = []
        default_rng = np.random.default_rng
        monkeypatch.setattr(np.random, "default_rng", lambda seed: made.append(seed) or default_rng(seed))
        loader = make(10, 3, seed=7)
        for step in range(10):
            loader.batch(step)
        assert made == [[7, 0], [7, 1], [7, 2]]

    def test_steps_per_epoch(self):
        assert make(10, 4).steps_per_epoch == 2.5


class TestBatch:
    LABELS = np.array([2, -1, 0, 1, 1], np.int64)

    def images(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (5, 3, 2, 2), np.uint8)

    def test_data_and_labels_stay_together(self):
        loader = make(5, 4, labels=self.LABELS)
        for step in range(5):
            batch = loader.batch(step)
            assert batch.conditions.tensor("label") is not None
            assert batch.conditions["label"].data.dtype == torch.int64
            assert batch.conditions["label"].data.tolist() == self.LABELS[batch.data.flatten()].tolist()

    @pytest.mark.parametrize("labels", [None, np.full(5, -1, np.int64)])
    def test_no_labels(self, labels):
        assert make(5, 4, labels=labels).batch(0).conditions.tensor("label") is None

    def test_codes_are_int64(self):
        assert make(5, 4).batch(0).data.dtype == torch.int64

    def test_to_model(self):
        loader = Loader(self.images(), batch_size=5, to_model=lambda pixels: pixels.float() / 255)
        batch = next(loader.sequential())
        np.testing.assert_array_equal(batch.data.numpy(), self.images() / np.float32(255))

    def test_augmented_shares_of_ranks_are_the_batch(self):
        def add(items, draws):
            return items + draws.view(-1, 1)

        plain, augmented = (make(6, 4, to_model=Tensor.float, augment=how) for how in (None, add))
        for step in range(3):
            whole = augmented.batch(step).data
            draws = whole - plain.batch(step).data
            assert torch.equal(torch.cat([augmented.batch(step, rank, 2).data for rank in range(2)]), whole)
            assert draws.min() >= 0
            assert draws.max() < 1
            assert draws.unique().numel() == 4
        assert not torch.equal(augmented.batch(0).data % 1, augmented.batch(3).data % 1)
        assert torch.equal(next(augmented.sequential(6)).data, next(plain.sequential(6)).data)
        assert torch.equal(augmented.items(np.arange(6)).data, plain.items(np.arange(6)).data)

    def test_indices(self):
        chosen = np.array([4, 0, 3], np.int64)
        loader = make(5, 3, labels=self.LABELS, indices=chosen)
        assert sorted(taken(loader, 0)) == [0, 3, 4]
        batches = list(loader.sequential(2))
        assert [batch.data.flatten().tolist() for batch in batches] == [[4, 0], [3]]
        assert [batch.conditions["label"].data.tolist() for batch in batches] == [[1, 2], [1]]

    def test_labels_of_unused_items_do_not_count(self):
        assert (
            make(5, 1, labels=self.LABELS, indices=np.array([1])).batch(0).conditions.tensor("label") is None
        )

    def test_store(self, tmp_path):
        data = [(f"{i}", image, "ab"[i % 2]) for i, image in enumerate(self.images())]
        store = Store.write(tmp_path / "s", data, (3, 2, 2), "uint8")
        loader = Loader(store, batch_size=2)
        batches = list(loader.sequential())
        np.testing.assert_array_equal(torch.cat([batch.data for batch in batches]), self.images())
        assert [label for batch in batches for label in batch.conditions["label"].data.tolist()] == [
            0,
            1,
            0,
            1,
            0,
        ]
        relabelled = Loader(store, self.LABELS, batch_size=5)
        assert next(relabelled.sequential()).conditions["label"].data.tolist() == self.LABELS.tolist()

    def test_nothing_is_copied_on_the_cpu(self):
        data = np.zeros((5, 1), np.uint8)
        loader = Loader(data, batch_size=5)
        data[:] = 7
        assert (loader.batch(0).data == 7).all()

    @quick
    @given(sizes, sizes)
    def test_sequential_is_every_item_once(self, count, batch_size):
        batches = [batch.data.flatten().tolist() for batch in make(count, 1).sequential(batch_size)]
        assert [*chain(*batches)] == list(range(count))
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


class TestPlaces:
    """Data on another device, and data that does not fit there, give the same batches."""

    def test_gathered_on_the_host(self, monkeypatch):
        monkeypatch.setattr(loader_module, "_fits", lambda device, num_bytes: False)
        labels, indices = np.arange(9) % 3, np.array([8, 1, 5, 2])
        on_host = make(9, 3, labels=labels, indices=indices)
        assert not on_host.resident
        monkeypatch.undo()
        resident = make(9, 3, labels=labels, indices=indices)
        assert resident.resident
        for step in range(5):
            assert torch.equal(on_host.batch(step).data, resident.batch(step).data)
            assert torch.equal(
                on_host.batch(step).conditions["label"].data, resident.batch(step).conditions["label"].data
            )

    @pytest.mark.parametrize("indices", [None, np.array([8, 1, 5, 2, 0])])
    @pytest.mark.parametrize("chunk", [1, 2, 100])
    def test_copy_in_chunks(self, indices, chunk):
        host = torch.arange(18).reshape(9, 2)
        chosen = None if indices is None else torch.from_numpy(indices)
        copied = loader_module._copy_to_device(host, chosen, torch.device("cpu"), chunk)
        assert torch.equal(copied, host if chosen is None else host[chosen])

    def test_half_of_the_free_memory(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
        cuda = torch.device("cuda")
        assert loader_module._fits(cuda, 49)
        assert not loader_module._fits(cuda, 50)
        assert loader_module._fits(torch.device("cpu"), 10**18)
        assert not loader_module._fits(torch.device("mps"), 1)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    @pytest.mark.parametrize("fits", [True, False])
    def test_on_a_gpu(self, monkeypatch, fits):
        labels, indices = np.arange(9) % 3, np.array([8, 1, 5, 2])
        monkeypatch.setattr(loader_module, "_fits", lambda device, num_bytes: fits)
        loader = make(9, 3, labels=labels, indices=indices, device="cuda")
        monkeypatch.undo()
        expected = make(9, 3, labels=labels, indices=indices)
        for step in range(5):
            batch = loader.batch(step)
            assert batch.data.device.type == "cuda"
            assert torch.equal(batch.data.cpu(), expected.batch(step).data)
            assert torch.equal(
                batch.conditions["label"].data.cpu(), expected.batch(step).conditions["label"].data
            )


class TestRefuses:
    def test_unequal_shares(self):
        with pytest.raises(
            InputError, match=r"3 processes can share equally, received 8: choose a multiple of 3"
        ):
            make(9, 8).batch(0, 0, 3)

    @pytest.mark.parametrize(("count", "batch_size"), [(0, 4), (4, 0), (4, -1)])
    def test_nothing(self, count, batch_size):
        with pytest.raises(InputError, match="at least one item"):
            make(count, batch_size)

    def test_no_indices(self):
        with pytest.raises(InputError, match="received 0 items"):
            make(4, 2, indices=np.array([], np.int64))

    def test_labels_of_other_data(self):
        with pytest.raises(InputError, match="each of 4 items, received 3"):
            make(4, 2, labels=np.zeros(3, np.int64))


class TestSplit:
    @quick
    @given(st.integers(2, 300), st.floats(0, 0.999), seeds)
    def test_every_item_is_on_one_side(self, count, fraction, seed):
        train, validation = split_indices(count, fraction, seed)
        assert sorted([*train, *validation]) == list(range(count))
        assert (np.diff(train) > 0).all()
        assert (np.diff(validation) > 0).all()
        assert len(train) >= 1
        assert (len(validation) >= 1) == (fraction > 0)
        assert abs(len(validation) - count * fraction) <= 1
        again = split_indices(count, fraction, seed)
        np.testing.assert_array_equal(validation, again[1])

    def test_is_random(self):
        assert split_indices(100, 0.1, 0)[1].tolist() != split_indices(100, 0.1, 1)[1].tolist()
        assert split_indices(100, 0.1, 0)[1].tolist() != list(range(90, 100))

    @pytest.mark.parametrize("fraction", [-0.1, 1.0, 10.0, float("nan")])
    def test_fractions(self, fraction):
        with pytest.raises(InputError, match="validation fraction from 0 to below 1"):
            split_indices(10, fraction)

    def test_one_item(self):
        with pytest.raises(InputError, match="at least 2 items"):
            split_indices(1, 0.5)
        assert [len(side) for side in split_indices(1, 0.0)] == [1, 0]
