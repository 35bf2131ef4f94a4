"""Grids of tiles: exact pixels, numbers of labels, and the classes of CIFAR-10."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smalti.core.errors import InputError
from smalti.data.sources.grids import CIFAR10_CLASSES, TileGridSource

RNG = np.random.default_rng(0)
LOSSLESS = {".webp": {"lossless": True, "quality": 0, "method": 0}, ".png": {}}


def tiles(num: int, side: int = 2, channels: int = 3) -> np.ndarray:
    shape = (num, side, side, channels) if channels > 1 else (num, side, side)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def grid(images: np.ndarray, rows: int) -> Image.Image:
    """An oracle for the layout: each tile is put where it belongs."""
    side = images.shape[1]
    canvas = np.zeros((rows * side, 32 * side, *images.shape[3:]), np.uint8)
    for index, image in enumerate(images):
        y, x = side * (index // 32), side * (index % 32)
        canvas[y : y + side, x : x + side] = image
    return Image.fromarray(canvas)


def write(folder: Path, ending: str = ".webp", rows: int | None = None, **splits: np.ndarray) -> None:
    """Grids of the images of each split, the last as high as `rows` or as it must be."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        for number, start in enumerate(range(0, len(images), 1024)):
            part = images[start : start + 1024]
            height = rows or -(-len(part) // 32)
            grid(part, height).save(folder / f"{split}_{number:02d}{ending}", **LOSSLESS[ending])


def write_labels(folder: Path, **arrays) -> None:
    np.savez(folder / "labels.npz", **arrays)


@pytest.fixture
def folder(tmp_path):
    """40 train and 33 test images of 2x2, classes 0 to 2."""
    write(tmp_path, train=TRAIN, test=TEST)
    write_labels(tmp_path, train_y=np.arange(40) % 3, test_y=np.uint8(np.arange(33) % 3), train_index=[7])
    return tmp_path


TRAIN, TEST = tiles(40), tiles(33)


@pytest.mark.parametrize("ending", [".webp", ".png"])
@pytest.mark.parametrize("rows", [None, 32], ids=["cropped", "full"])
def test_both_splits_exactly_and_at_each_call(tmp_path, ending, rows):
    write(tmp_path, ending, rows, train=TRAIN, test=TEST)
    write_labels(tmp_path, train_y=np.arange(40) % 3, test_y=np.arange(33) % 3)
    assert TileGridSource.accepts(tmp_path)
    source = TileGridSource(tmp_path)
    assert source.splits == ("train", "test")
    assert source.description == f"grids of tiles {tmp_path} (train 40, test 33)"
    for split, images in (("train", TRAIN), ("test", TEST)):
        assert source.count(split) == len(images)
        assert source.notes(split) == []
        for _ in range(2):
            items = list(source.items(split))
            assert [item.name for item in items] == [f"{split}/{n:05d}" for n in range(len(images))]
            assert [item.label for item in items] == [str(n % 3) for n in range(len(images))]
            np.testing.assert_array_equal(np.stack([item.content for item in items]), images)


def test_several_grids_the_last_partly_filled(tmp_path):
    images = tiles(2 * 1024 + 35, side=1)
    write(tmp_path, train=images)
    write_labels(tmp_path, train_y=np.arange(len(images)) % 7)
    source = TileGridSource(tmp_path)
    assert source.splits == ("train",)
    items = list(source.items("train"))
    np.testing.assert_array_equal(np.stack([item.content for item in items]), images)
    assert [item.label for item in items[1022:1026]] == ["0", "1", "2", "3"]
    assert items[-1].name == "train/02082"


def test_exactly_full_grids(tmp_path):
    images = tiles(1024, side=1)
    write(tmp_path, train=images)
    write_labels(tmp_path, train_y=np.zeros(1024, int))
    assert len(list(TileGridSource(tmp_path).items("train"))) == 1024


def test_grey_tiles(tmp_path):
    images = tiles(5, channels=1)
    write(tmp_path, ".png", test=images)
    write_labels(tmp_path, test_y=np.arange(5))
    contents = [item.content for item in TileGridSource(tmp_path).items("test")]
    np.testing.assert_array_equal(np.stack(contents), images)


@pytest.mark.parametrize(
    ("side", "channels", "labels", "named"),
    [
        (32, 3, range(10), True),
        (32, 3, range(9), False),
        (32, 3, range(11), False),
        (32, 3, range(1, 11), False),
        (32, 1, range(10), False),
        (28, 3, range(10), False),
    ],
    ids=["cifar", "nine", "eleven", "from one", "grey", "28"],
)
def test_ten_classes_of_cifar_have_names(tmp_path, side, channels, labels, named):
    write(tmp_path, ".png", train=tiles(len(labels), side, channels))
    write_labels(tmp_path, train_y=list(labels))
    found = [item.label for item in TileGridSource(tmp_path).items("train")]
    assert found == (list(CIFAR10_CLASSES) if named else [str(label) for label in labels])


def test_names_are_those_of_all_splits_together(tmp_path):
    write(tmp_path, ".png", train=tiles(10, 32), test=tiles(1, 32))
    write_labels(tmp_path, train_y=np.arange(10), test_y=[6])
    assert [item.label for item in TileGridSource(tmp_path).items("test")] == ["frog"]


def test_other_files_are_noted(folder):
    for name in ("jpeg.tar.xz", "ATTRIBUTION", ".hidden", "train.webp"):
        (folder / name).write_bytes(b"")
    source = TileGridSource(folder)
    assert source.notes("train") == [
        "3 files beside the grids were ignored, the first of them ATTRIBUTION",
    ]
    assert source.notes("test") == []


def test_accepts_only_grids_with_labels(tmp_path):
    assert not TileGridSource.accepts(tmp_path)
    write_labels(tmp_path, train_y=[1])
    assert not TileGridSource.accepts(tmp_path)
    assert not TileGridSource.accepts(tmp_path / "labels.npz")
    write(tmp_path, train=tiles(1))
    assert TileGridSource.accepts(tmp_path)
    (tmp_path / "labels.npz").unlink()
    assert not TileGridSource.accepts(tmp_path)


def test_no_grid(tmp_path):
    with pytest.raises(InputError, match=r"expected a grid such as train_00\.webp in .*, found none"):
        TileGridSource(tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            1025,
            r"expected 2 grids, train_00 and so on, for the 1,025 labels train_y in .*, got train_00\.webp",
        ),
        (100, r"expected 4 rows of tiles in .*train_00\.webp for the 100 labels train_y, got 2"),
        (32, r"expected 1 rows of tiles in .*train_00\.webp"),
    ],
)
def test_wrong_number_of_labels(folder, labels, message):
    write_labels(folder, train_y=np.zeros(labels, int), test_y=np.zeros(33, int))
    with pytest.raises(InputError, match=message):
        TileGridSource(folder)


def test_a_grid_is_missing(tmp_path):
    write(tmp_path, train=tiles(3 * 1024, side=1))
    write_labels(tmp_path, train_y=np.zeros(3 * 1024, int))
    (tmp_path / "train_01.webp").unlink()
    with pytest.raises(InputError, match=r"expected 3 grids, .*, got train_00\.webp, train_02\.webp"):
        TileGridSource(tmp_path)


def test_a_grid_that_is_there_twice(folder):
    write(folder, ".png", train=TRAIN)
    with pytest.raises(InputError, match=r"expected 1 grids, .*, got train_00\.png, train_00\.webp"):
        TileGridSource(folder)


def test_a_full_grid_that_is_too_low(tmp_path):
    write(tmp_path, train=tiles(2 * 1024, side=1))
    write(tmp_path, train=tiles(32, side=1))
    write_labels(tmp_path, train_y=np.zeros(2 * 1024, int))
    with pytest.raises(InputError, match=r"expected 32 rows of tiles in .*train_00\.webp .*, got 1"):
        TileGridSource(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"test_y": [1]}, r"the labels train_y, integers \(N,\), in .*, got no such array"),
        ({"train_y": [[1]]}, r"got int64 \(1, 1\)"),
        ({"train_y": [0.5]}, r"got float64 \(1,\)"),
        ({"train_y": np.zeros(0, int)}, r"got int64 \(0,\)"),
        ({"train_y": 3}, r"got int64 \(\)"),
        ({"train_y": ["cat"]}, r"got <U3 \(1,\)"),
        (
            {"train_y": np.array([{}], object)},
            r"expected a complete \.npz file of numbers, got .*labels\.npz, whi",
        ),
    ],
    ids=["absent", "2d", "float", "empty", "scalar", "text", "objects"],
)
def test_labels_of_the_wrong_kind(tmp_path, arrays, message):
    write(tmp_path, train=tiles(1))
    write_labels(tmp_path, **arrays)
    with pytest.raises(InputError, match=message):
        TileGridSource(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 half a zip", b"no zip", b"npy"])
def test_damaged_labels(folder, content):
    if content == b"npy":
        with (folder / "labels.npz").open("wb") as file:
            np.save(file, np.arange(3))
    else:
        (folder / "labels.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"expected a complete \.npz file of numbers, got .*"):
        TileGridSource(folder)


def test_labels_that_unpack_to_too_much(folder):
    np.savez_compressed(folder / "labels.npz", train_y=np.zeros(2**23, int), test_y=np.arange(33))
    assert (folder / "labels.npz").stat().st_size < 100_000
    with pytest.raises(
        InputError,
        match=r"at most 67,108,864 bytes in train_y\.npy of .*labels\.npz, got 67,108,992: it is not",
    ):
        TileGridSource(folder)


def test_other_arrays_beside_the_labels_may_be_large(folder):
    labels = {"train_y": np.arange(40), "test_y": np.arange(33)}
    np.savez_compressed(folder / "labels.npz", **labels, pixels=np.zeros(2**23, int))
    assert TileGridSource(folder).count("train") == 40


def test_labels_compressed_as_numpy_never_does(folder):
    with (
        np.load(folder / "labels.npz") as arrays,
        zipfile.ZipFile(folder / "new.npz", "w", zipfile.ZIP_BZIP2) as archive,
    ):
        for name in arrays.files:
            with archive.open(f"{name}.npy", "w") as file:
                np.save(file, arrays[name])
    (folder / "new.npz").replace(folder / "labels.npz")
    with pytest.raises(InputError, match=r"expected a complete \.npz file of numbers, got .*"):
        TileGridSource(folder)


def test_labels_cut_off(folder):
    file = folder / "labels.npz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"expected a complete \.npz file of numbers"):
        TileGridSource(folder)


def test_a_file_that_is_no_picture(folder):
    (folder / "test_00.webp").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"expected an image in .*test_00\.webp, which is damaged"):
        TileGridSource(folder)


def test_a_grid_cut_off_is_reported_when_it_is_read(tmp_path):
    write(tmp_path, ".png", train=tiles(1024, side=4))
    write_labels(tmp_path, train_y=np.zeros(1024, int))
    file = tmp_path / "train_00.png"
    file.write_bytes(file.read_bytes()[:20_000])
    source = TileGridSource(tmp_path)
    with pytest.raises(InputError, match=r"expected an image in .*train_00\.png, which is damaged"):
        list(source.items("train"))


@pytest.mark.parametrize(
    ("size", "mode"),
    [((63, 2), "RGB"), ((64, 3), "RGB"), ((32, 33), "RGB"), ((16, 1), "RGB"), ((64, 2), "RGBA")],
)
def test_pictures_that_are_no_grids(tmp_path, size, mode):
    Image.new(mode, size).save(tmp_path / "train_00.png")
    write_labels(tmp_path, train_y=[1])
    with pytest.raises(
        InputError,
        match=rf"expected square tiles, 32 in a row .*, got {size[0]}x{size[1]} pixels, mode {mode}:",
    ):
        TileGridSource(tmp_path)


def test_tiles_of_different_sizes(folder):
    write(folder, test=tiles(33, side=3))
    with pytest.raises(
        InputError, match=r"of side 3, mode RGB, in .*train_00\.webp, as in test_00\.webp, got 2, RGB"
    ):
        TileGridSource(folder)


@pytest.mark.parametrize("ask", ["count", "notes", "items"])
def test_unknown_split(folder, ask):
    source = TileGridSource(folder)
    with pytest.raises(InputError, match=r"expected one of the splits train, test of grids .*, got 'all'"):
        list(getattr(source, ask)("all"))


@pytest.mark.skipif(
    "SMALTI_DATA" not in os.environ, reason="SMALTI_DATA does not name the folder of real data"
)
def test_real_cifar10():
    source = TileGridSource(Path(os.environ["SMALTI_DATA"]) / "cifar10")
    assert (source.count("train"), source.count("test")) == (8336, 1017)
    items = list(source.items("test"))
    assert items[0].content.shape == (32, 32, 3)
    assert [item.label for item in items[:5]] == ["cat", "ship", "ship", "airplane", "frog"]
