"""The archives of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): their names, and how their files are read.

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
"""The largest batch that is read: CIFAR-100's 50,000 images, in a protocol that takes 1.5 bytes for each."""
MOST_META_BYTES = 1 << 20
"""The largest file of names that is read; the true ones have 2 kB at most."""


@dataclass(frozen=True)
class Batch:
    """Images `(N, 32, 32, 3)`, uint8, and the class of each, from 0 to the number of classes - 1."""

    images: np.ndarray
    labels: Sequence[int]


@dataclass(frozen=True)
class Version:
    """One of the archives.

    Attributes:
        dataset: the data set in it.
        archive: what it is called.
        folder: what the folder in it is called.
        batches: the files of each split, in order.
        meta: the file with the names of the classes.
        marks: files that tell the folder when it is called otherwise.
        read_batch: a file's content, and what errors call it -> the batch.
        read_names: the content of `meta`, and what errors call it -> the names.
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
        """The batches of all splits."""
        return tuple(name for names in self.batches.values() for name in names)

    def most_bytes(self, name: str) -> int:
        """The largest size that one of its files can have."""
        return MOST_META_BYTES if name == self.meta else MOST_BATCH_BYTES


def read_pickled_batch(content: bytes, place: str, label_key: str, num_classes: int) -> Batch:
    """A batch of a Python version: a dict of `data`, uint8 `(N, 3072)`, planes of R, G and B, and of labels.

    Raises:
        InputError: when it is damaged, or asks for what a batch has no need of.
    """
    fields = read_pickle(content, place)
    pixels, labels = to_bytes_array(fields.get("data")), fields.get(label_key)
    shape = None if pixels is None else pixels.shape
    num_labels = len(labels) if isinstance(labels, list) else None
    if pixels is None or not isinstance(labels, list) or shape != (num_labels, PIXEL_BYTES):
        raise InputError(
            f"expected data (N, {PIXEL_BYTES}) of type uint8 and N {label_key} in {place}, got "
            f"{'no such data' if shape is None else f'data {shape}'} and {num_labels or 'no'} {label_key}: "
            "fetch it again"
        )
    return _batch(pixels, labels, place, num_classes)


def read_binary_batch(content: bytes, place: str, label_bytes: int, num_classes: int) -> Batch:
    """A batch of a binary version: records of labels, of which the last one counts, and of 3072 pixels.

    Raises:
        InputError: when it is cut off or damaged.
    """
    record = label_bytes + PIXEL_BYTES
    if not content or len(content) % record:
        raise InputError(
            f"expected records of {record:,} bytes in {place}, got {len(content):,} bytes: it is cut off, "
            "fetch it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return _batch(records[:, label_bytes:], records[:, label_bytes - 1].tolist(), place, num_classes)


def read_pickled_names(content: bytes, place: str, key: str, num_classes: int) -> list[str]:
    """Names of the classes of a Python version.

    Raises:
        InputError: when the file is damaged, or they are of another number.
    """
    names = read_pickle(content, place).get(key)
    return _names([to_text(name) for name in names] if isinstance(names, list) else [], place, num_classes)


def read_text_names(content: bytes, place: str, num_classes: int) -> list[str]:
    """Names of the classes of a binary version, one a line.

    Raises:
        InputError: when they are of another number.
    """
    return _names(content.decode("ascii", "replace").split(), place, num_classes)


def _batch(pixels: np.ndarray, labels: Sequence[Any], place: str, num_classes: int) -> Batch:
    wrong = [label for label in labels if not (isinstance(label, int) and 0 <= label < num_classes)]
    if wrong:
        raise InputError(
            f"expected labels from 0 to {num_classes - 1} in {place}, got {wrong[0]!r}: it is damaged, "
            "fetch it again"
        )
    planes = pixels.reshape(-1, 3, SIDE, SIDE)
    return Batch(planes.transpose(0, 2, 3, 1), labels)


def _names(names: list[str], place: str, num_classes: int) -> list[str]:
    if len(names) != num_classes:
        raise InputError(
            f"expected the names of {num_classes} classes in {place}, got {len(names)}: fetch it again"
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
        # Lists of files are called train and test too, elsewhere.
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
