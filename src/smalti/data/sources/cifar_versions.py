"""File names and readers of the CIFAR-10 and CIFAR-100 archives (Krizhevsky 2009).

https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from smalti.core.errors import InputError
from smalti.data.sources.pickles import read_pickle, to_bytes_array, to_text

SIDE = 32
PIXEL_BYTES = 3 * SIDE * SIDE

MOST_BATCH_BYTES = 256 << 20
"""Size limit of a batch: CIFAR-100 has 50,000 images, and old pickle protocols take 1.5 bytes per value."""
MOST_META_BYTES = 1 << 20
"""Size limit of the file of class names; the published ones have at most 2 kB."""


@dataclass(frozen=True)
class Batch:
    """Images `(N, 32, 32, 3)`, uint8, and their labels, each from 0 to the number of classes - 1."""

    images: np.ndarray
    labels: Sequence[int]


@dataclass(frozen=True)
class Version:
    """One of the published archives.

    Attributes:
        dataset: name of the data set.
        archive: file name of the archive.
        folder: name of the folder in the archive.
        batches: file names of each split, in order.
        meta: name of the file with the class names.
        marks: files by which a renamed folder is recognised.
        read_batch: reads a batch from a file's content and its name in error messages.
        read_names: reads the class names from the content of `meta` and its name in error messages.
    """

    dataset: str
    archive: str
    folder: str
    batches: dict[str, tuple[str, ...]]
    meta: str
    marks: tuple[str, ...]
    read_batch: Callable[[bytes, str], Batch]
    read_names: Callable[[bytes, str], list[str]]

    @property
    def files(self) -> tuple[str, ...]:
        """File names of the batches of all splits."""
        return tuple(name for names in self.batches.values() for name in names)

    def most_bytes(self, name: str) -> int:
        """Return the size limit of one of the files, in bytes."""
        return MOST_META_BYTES if name == self.meta else MOST_BATCH_BYTES


def read_pickled_batch(content: bytes, place: str, label_key: str, num_classes: int) -> Batch:
    """Read a batch of a Python version: a pickled dict of labels and `data`, uint8 `(N, 3072)` in RGB planes.

    Args:
        content: content of the file.
        place: name of the file in error messages.
        label_key: key of the labels.
        num_classes: number of classes; labels are in [0, num_classes).

    Raises:
        InputError: if the file is damaged, or the pickle names anything but arrays and lists.
    """
    fields = read_pickle(content, place)
    pixels, labels = to_bytes_array(fields.get("data")), fields.get(label_key)
    shape = None if pixels is None else pixels.shape
    num_labels = len(labels) if isinstance(labels, list) else None
    if pixels is None or not isinstance(labels, list) or shape != (num_labels, PIXEL_BYTES):
        raise InputError(
            f"expected data (N, {PIXEL_BYTES}) of type uint8 and N {label_key} in {place}, got "
            f"{'no such data' if shape is None else f'data {shape}'} and {num_labels or 'no'} {label_key}: "
            "download it again"
        )
    return _batch(pixels, labels, place, num_classes)


def read_binary_batch(content: bytes, place: str, label_bytes: int, num_classes: int) -> Batch:
    """Read a batch of a binary version: records of `label_bytes` labels and 3072 pixel values.

    Args:
        content: content of the file.
        place: name of the file in error messages.
        label_bytes: labels per record, one byte each; the last one (the fine label of CIFAR-100) is used.
        num_classes: number of classes; labels are in [0, num_classes).

    Raises:
        InputError: if the file is truncated or damaged.
    """
    record = label_bytes + PIXEL_BYTES
    if not content or len(content) % record:
        raise InputError(
            f"expected records of {record:,} bytes in {place}, got {len(content):,} bytes: it is truncated, "
            "download it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return _batch(records[:, label_bytes:], records[:, label_bytes - 1].tolist(), place, num_classes)


def read_pickled_names(content: bytes, place: str, key: str, num_classes: int) -> list[str]:
    """Read the class names of a Python version.

    Raises:
        InputError: if the file is damaged, or does not hold `num_classes` names.
    """
    names = read_pickle(content, place).get(key)
    return _names([to_text(name) for name in names] if isinstance(names, list) else [], place, num_classes)


def read_text_names(content: bytes, place: str, num_classes: int) -> list[str]:
    """Read the class names of a binary version, one per line.

    Raises:
        InputError: if the file does not hold `num_classes` names.
    """
    return _names(content.decode("ascii", "replace").split(), place, num_classes)


def _batch(pixels: np.ndarray, labels: Sequence[Any], place: str, num_classes: int) -> Batch:
    wrong = [label for label in labels if not (isinstance(label, int) and 0 <= label < num_classes)]
    if wrong:
        raise InputError(
            f"expected labels from 0 to {num_classes - 1} in {place}, got {wrong[0]!r}: it is damaged, "
            "download it again"
        )
    planes = pixels.reshape(-1, 3, SIDE, SIDE)
    return Batch(planes.transpose(0, 2, 3, 1), labels)


def _names(names: list[str], place: str, num_classes: int) -> list[str]:
    if len(names) != num_classes:
        raise InputError(
            f"expected the names of {num_classes} classes in {place}, got {len(names)}: download it again"
        )
    return names


VERSIONS = (
    Version(
        dataset="CIFAR-10",
        archive="cifar-10-python.tar.gz",
        folder="cifar-10-batches-py",
        batches={"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)},
        meta="batches.meta",
        marks=("data_batch_1", "test_batch"),
        read_batch=partial(read_pickled_batch, label_key="labels", num_classes=10),
        read_names=partial(read_pickled_names, key="label_names", num_classes=10),
    ),
    Version(
        dataset="CIFAR-10",
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        batches={"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)},
        meta="batches.meta.txt",
        marks=("data_batch_1.bin", "test_batch.bin"),
        read_batch=partial(read_binary_batch, label_bytes=1, num_classes=10),
        read_names=partial(read_text_names, num_classes=10),
    ),
    Version(
        dataset="CIFAR-100",
        archive="cifar-100-python.tar.gz",
        folder="cifar-100-python",
        batches={"train": ("train",), "test": ("test",)},
        meta="meta",
        # Other data sets have files called train and test too, so meta is required as well.
        marks=("train", "test", "meta"),
        read_batch=partial(read_pickled_batch, label_key="fine_labels", num_classes=100),
        read_names=partial(read_pickled_names, key="fine_label_names", num_classes=100),
    ),
    Version(
        dataset="CIFAR-100",
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        batches={"train": ("train.bin",), "test": ("test.bin",)},
        meta="fine_label_names.txt",
        marks=("train.bin", "test.bin", "fine_label_names.txt"),
        read_batch=partial(read_binary_batch, label_bytes=2, num_classes=100),
        read_names=partial(read_text_names, num_classes=100),
    ),
)
