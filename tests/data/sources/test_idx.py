"""idx files: what MNIST-like sets hold, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from smalti.app.recipes import RECIPES, get_recipe
from smalti.core.errors import InputError
from smalti.data.sources.idx import FASHION_MNIST, NAMES_BY_FIRST_LABELS, IdxSource

IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
LABELS = np.array([3, 1, 4, 1, 9], np.uint8)


def idx(array: np.ndarray) -> bytes:
    """An oracle for the format, after its definition."""
    header = bytes((0, 0, 8, array.ndim)) + b"".join(struct.pack(">i", size) for size in array.shape)
    return header + array.tobytes()


def write(folder: Path, name: str, raw: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


@pytest.fixture(params=["", ".gz"], ids=["plain", "gzip"])
def ending(request):
    return request.param


@pytest.fixture
def folder(tmp_path, ending):
    write(tmp_path, f"train-images-idx3-ubyte{ending}", idx(IMAGES))
    write(tmp_path, f"train-labels-idx1-ubyte{ending}", idx(LABELS))
    write(tmp_path, f"t10k-images-idx3-ubyte{ending}", idx(IMAGES[:2]))
    write(tmp_path, f"t10k-labels-idx1-ubyte{ending}", idx(LABELS[:2]))
    return tmp_path


def test_images_and_labels(folder):
    assert IdxSource.accepts(folder)
    source = IdxSource(folder)
    assert source.splits == ("train", "test")
    assert (source.count("train"), source.count("test")) == (5, 2)
    items = list(source.items("train"))
    assert [item.name for item in items] == [f"train/0000{i}" for i in range(5)]
    assert [item.label for item in items] == ["3", "1", "4", "1", "9"]
    np.testing.assert_array_equal(np.stack([item.content for item in items]), IMAGES)
    assert all(item.content.dtype == np.uint8 for item in items)
    assert [item.name for item in source.items("test")] == ["test/00000", "test/00001"]
    assert source.notes("train") == []


def test_more_images_than_are_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("smalti.data.sources.idx.IMAGES_AT_ONCE", 2)
    write(tmp_path, "train-images-idx3-ubyte.gz", idx(IMAGES))
    contents = [item.content for item in IdxSource(tmp_path).items("train")]
    np.testing.assert_array_equal(np.stack(contents), IMAGES)


@pytest.mark.parametrize("first", NAMES_BY_FIRST_LABELS)
def test_fashion_mnist_is_recognised_by_its_labels(tmp_path: Path, first: bytes) -> None:
    labels = np.array([*first, 1, 0], np.uint8)
    write(tmp_path, "train-images-idx3-ubyte", idx(np.zeros((len(labels), 2, 2), np.uint8)))
    write(tmp_path, "train-labels-idx1-ubyte", idx(labels))
    named = [item.label for item in IdxSource(tmp_path).items("train")]
    assert named == [FASHION_MNIST[label] for label in labels]
    write(tmp_path, "train-labels-idx1-ubyte", idx(labels[::-1]))
    assert [item.label for item in IdxSource(tmp_path).items("train")] == [*map(str, labels[::-1])]


def test_no_recipe_renames_the_classes_of_the_data() -> None:
    assert [name for name in RECIPES if get_recipe(name).class_names] == []


def test_no_labels_is_noted(tmp_path):
    write(tmp_path, "train-images-idx3-ubyte", idx(IMAGES))
    source = IdxSource(tmp_path)
    assert {item.label for item in source.items("train")} == {None}
    assert source.notes("train") == ["train-images-idx3-ubyte has no labels file beside it"]


@pytest.mark.parametrize("name", ["train-images.idx3-ubyte", "kmnist-train-images-idx3-ubyte.gz"])
def test_other_spellings(tmp_path, name):
    write(tmp_path, name, idx(IMAGES))
    assert IdxSource(tmp_path).splits == ("train",)


def test_emnist_is_turned_upright(tmp_path):
    write(tmp_path, "emnist-letters-test-images-idx3-ubyte", idx(IMAGES))
    np.testing.assert_array_equal(next(IdxSource(tmp_path).items("test")).content, IMAGES[0].T)


def test_a_plain_file_goes_before_its_copy(tmp_path):
    write(tmp_path, "train-images-idx3-ubyte", idx(IMAGES))
    write(tmp_path, "train-images-idx3-ubyte.gz", idx(IMAGES[:1]))
    assert IdxSource(tmp_path).count("train") == 5


def test_accepts_nothing_else(tmp_path):
    assert not IdxSource.accepts(tmp_path)
    file = write(tmp_path, "train-labels-idx1-ubyte", idx(LABELS))
    assert not IdxSource.accepts(tmp_path)
    assert not IdxSource.accepts(file)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match=r"expected a folder with idx files, got .*absent, which"):
        IdxSource(tmp_path / "absent")


def test_no_images(tmp_path):
    write(tmp_path, "train-labels-idx1-ubyte", idx(LABELS))
    with pytest.raises(
        InputError, match=r"expected a file such as train-images-idx3-ubyte\.gz in .*found none"
    ):
        IdxSource(tmp_path)


def test_several_data_sets(tmp_path):
    write(tmp_path, "emnist-digits-train-images-idx3-ubyte", idx(IMAGES))
    write(tmp_path, "train-images-idx3-ubyte", idx(IMAGES))
    with pytest.raises(
        InputError,
        match=r"of one data set in .*, got those of 2, beginning with train-, emnist-digits-",
    ):
        IdxSource(tmp_path)


@pytest.mark.parametrize(
    ("raw", "received"),
    [
        (b"", "nothing"),
        (b"\x89PNG rather than idx", "89 50 4e 47"),
        (idx(LABELS), "00 00 08 01"),
        (b"\x00\x00\x0d\x03" + idx(IMAGES)[4:], "00 00 0d 03"),
    ],
    ids=["empty", "png", "labels", "floats"],
)
def test_wrong_magic_number(tmp_path, ending, raw, received):
    write(tmp_path, f"train-images-idx3-ubyte{ending}", raw)
    with pytest.raises(
        InputError, match=rf"in 3 dimensions, which begins with 00 00 08 03, got .* begins with {received}"
    ):
        IdxSource(tmp_path)


def test_header_cut_off(tmp_path):
    write(tmp_path, "train-images-idx3-ubyte", idx(IMAGES)[:10])
    with pytest.raises(InputError, match=r"expected 16 bytes for its header in .*, got 10: it is truncated"):
        IdxSource(tmp_path)


def test_no_entries(tmp_path):
    write(tmp_path, "train-images-idx3-ubyte", idx(IMAGES[:0]))
    with pytest.raises(
        InputError, match=r"expected images or labels in .*, got an array of shape \(0, 4, 3\)"
    ):
        IdxSource(tmp_path)


def test_truncated_plain_file_is_reported_at_once(tmp_path):
    write(tmp_path, "train-images-idx3-ubyte", idx(IMAGES)[:-17])
    with pytest.raises(InputError, match=r"expected 60 bytes for shape \(5, 4, 3\) in .*: it is truncated"):
        IdxSource(tmp_path)


def test_elements_missing_inside_gzip(tmp_path):
    write(tmp_path, "train-images-idx3-ubyte.gz", idx(IMAGES)[:-17])
    source = IdxSource(tmp_path)
    with pytest.raises(
        InputError, match=r"expected 60 bytes for shape \(5, 4, 3\) in .*, got 43: it is truncated"
    ):
        list(source.items("train"))


def test_a_header_that_lies_is_not_obeyed(tmp_path, ending):
    raw = bytes((0, 0, 8, 3)) + struct.pack(">III", 2**31, 2**31, 2**31)
    write(tmp_path, f"train-images-idx3-ubyte{ending}", raw)
    with pytest.raises(InputError, match=r"it is truncated"):
        IdxSource(tmp_path)


def test_truncated_gzip(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2000, 8, 8), dtype=np.uint8)
    file = write(tmp_path, "train-images-idx3-ubyte.gz", idx(images))
    file.write_bytes(file.read_bytes()[:60_000])
    source = IdxSource(tmp_path)
    with pytest.raises(InputError, match=r"expected a complete gzip file, got .*, which is truncated"):
        list(source.items("train"))


def test_gzip_by_name_only(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(IMAGES))
    with pytest.raises(InputError, match=r"expected a gzip file, got .*, which is damaged"):
        IdxSource(tmp_path)


def test_more_than_the_header_says(tmp_path, ending):
    write(tmp_path, f"train-images-idx3-ubyte{ending}", idx(IMAGES) + b"!")
    source = IdxSource(tmp_path)
    with pytest.raises(InputError, match=r"to end after the 5 entries of its header, got more"):
        list(source.items("train"))


def test_labels_must_be_as_many_as_images(tmp_path):
    write(tmp_path, "train-images-idx3-ubyte", idx(IMAGES))
    write(tmp_path, "train-labels-idx1-ubyte", idx(LABELS[:4]))
    with pytest.raises(
        InputError, match=r"expected as many labels as images, got 4 labels in .* and 5 images"
    ):
        IdxSource(tmp_path)


@pytest.mark.parametrize("ask", ["count", "notes", "items"])
def test_unknown_split(folder, ask):
    source = IdxSource(folder)
    with pytest.raises(
        InputError, match=r"expected one of the splits train, test of idx files .*, got 'all'"
    ):
        list(getattr(source, ask)("all"))


@pytest.mark.skipif(
    "SMALTI_DATA" not in os.environ, reason="SMALTI_DATA does not name the folder of real data"
)
def test_real_fashion_mnist():
    source = IdxSource(Path(os.environ["SMALTI_DATA"]) / "fashion-mnist")
    assert (source.count("train"), source.count("test")) == (60_000, 10_000)
    items = list(source.items("test"))
    assert items[0].content.shape == (28, 28)
    assert items[0].label == "Ankle boot"
    labels, counts = np.unique([item.label for item in items], return_counts=True)
    assert labels.tolist() == sorted(FASHION_MNIST)
    assert set(counts.tolist()) == {1000}
