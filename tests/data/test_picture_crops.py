"""Crops of pictures of different sizes: which pixels, drawn by the step alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from smalti.core.errors import InputError
from smalti.data.crops import CropLoader
from smalti.data.store import Store

SIZES = ((5, 9), (7, 4), (4, 4), (12, 10))
CROP = (4, 3)


def picture(index: int) -> np.ndarray:
    """Each pixel names its picture, row and column."""
    height, width = SIZES[index]
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.full((height, width), index), rows, columns]).astype(np.uint8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    items = [(f"{i}.png", picture(i), ("cat", "dog")[i % 2]) for i in range(len(SIZES))]
    return Store.write(tmp_path_factory.mktemp("store") / "s", items, (3, None, None), "uint8")


def loader(store: Store, batch_size: int = 64, **options) -> CropLoader:
    return CropLoader(store, size=CROP, batch_size=batch_size, to_model=torch.Tensor.float, **options)


class TestStore:
    def test_items_and_sizes(self, store: Store):
        assert store.shape == (3, None, None)
        assert store.open_sides.tolist() == [*map(list, SIZES)]
        for index in range(store.count):
            np.testing.assert_array_equal(store.item(index), picture(index))

    def test_middle(self, store: Store):
        np.testing.assert_array_equal(store.item(3, (4, 3)), picture(3)[:, 4:8, 3:6])
        np.testing.assert_array_equal(store.item(2, (4, 4)), picture(2))

    @pytest.mark.parametrize("shape", [(3, 0, 4), (3, 4), (1, 4, 4), (3, 4, 4, 1)])
    def test_other_shapes_are_refused(self, tmp_path: Path, shape: tuple[int, ...]):
        with pytest.raises(InputError):
            Store.write(tmp_path / "s", [("a", np.zeros(shape, np.uint8), None)], (3, None, None), "uint8")

    @pytest.mark.parametrize(
        "sizes", [[], [(5, 9)], [(9, 5), (4, 7), (4, 4), (10, 13)], [(5, 9), (7, 4), (4, 4), (-12, -10)]]
    )
    def test_damaged_sizes(self, store: Store, sizes, tmp_path: Path):
        items = [("a", picture(i), None) for i in range(4)]
        damaged = Store.write(tmp_path / "s", items, (3, None, None), "uint8").directory
        (damaged / "sizes.bin").write_bytes(np.array(sizes, np.int64).tobytes())
        with pytest.raises(InputError):
            Store.open(damaged)


class TestCrops:
    def test_every_crop_is_a_part_of_its_picture(self, store: Store):
        batch = loader(store, 200).batch(3)
        assert batch.data.shape == (200, 3, *CROP)
        assert batch.lengths is None
        assert batch.mask is None
        for crop, label in zip(batch.data.numpy(), batch.conditions["label"].data.tolist(), strict=True):
            index, top, left = crop[:, 0, 0].astype(int)
            part = picture(index)[:, top : top + CROP[0], left : left + CROP[1]]
            np.testing.assert_array_equal(crop, part)
            assert label == index % 2

    def test_every_position_occurs(self, store: Store):
        corners = {tuple(crop[:, 0, 0].astype(int)) for crop in loader(store, 6000).batch(0).data.numpy()}
        expected = {
            (index, top, left)
            for index, (height, width) in enumerate(SIZES)
            for top in range(height - CROP[0] + 1)
            for left in range(width - CROP[1] + 1)
        }
        assert corners == expected

    def test_large_pictures_have_more_crops(self, store: Store):
        drawn = np.bincount(loader(store, 4000).batch(1).data[:, 0, 0, 0].numpy().astype(int))
        areas = np.array([height * width for height, width in SIZES])
        np.testing.assert_allclose(drawn / 4000, areas / areas.sum(), atol=0.03)

    def test_batches_are_a_function_of_seed_and_step(self, store: Store):
        again = loader(store)
        for step in (5, 0, 5):
            assert torch.equal(loader(store).batch(step).data, again.batch(step).data)
        assert not torch.equal(again.batch(0).data, again.batch(1).data)
        assert not torch.equal(again.batch(0).data, loader(store, seed=1).batch(0).data)

    def test_augmented_shares_of_ranks_are_the_batch(self, store: Store):
        def mirrored(stored: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
            return torch.where((draws < 0.5).view(-1, 1, 1, 1), stored.flip(3), stored)

        plain, made = loader(store, 8), loader(store, 8, augment=mirrored)
        shares = torch.cat([made.batch(2, rank, 2).data for rank in range(2)])
        assert torch.equal(shares, made.batch(2).data)
        turned = [not torch.equal(a, b) for a, b in zip(plain.batch(2).data, shares, strict=True)]
        assert 0 < sum(turned) < 8
        assert torch.equal(next(plain.watch()).data, next(made.watch()).data)

    def test_validation_uses_the_middle(self, store: Store):
        (batch,) = loader(store, indices=np.array([3, 1])).watch()
        for crop, index in zip(batch.data.numpy(), (3, 1), strict=True):
            np.testing.assert_array_equal(crop, store.item(index, CROP))

    def test_whole_pictures_are_continued_and_masked(self, store: Store):
        crops = loader(store, strides=(4, 4))
        for index, (batch, (height, width)) in enumerate(zip(crops.sequential(), SIZES, strict=True)):
            more = [(0, -side % 4) for side in (height, width)]
            expected = np.pad(picture(index), [(0, 0), *more], mode="reflect")
            np.testing.assert_array_equal(batch.data[0], expected)
            assert batch.num_values().tolist() == [3 * height * width]
            if batch.mask is not None:
                assert batch.mask[0, :, :height, :width].all()

    def test_steps_per_epoch_count_pixels(self, store: Store):
        areas = sum(height * width for height, width in SIZES)
        assert loader(store, 10).steps_per_epoch == pytest.approx(areas / 12 / 10)

    def test_crops_with_another_number_of_sides(self, store: Store):
        with pytest.raises(InputError):
            CropLoader(store, size=(4,), batch_size=2)
