"""The idx files of MNIST and of data sets in the same format (Fashion-MNIST, EMNIST, ...)."""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from smalti.core.errors import InputError
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import class_name, ordered_splits, require_split

FILE_NAME = re.compile(
    r"(?P<prefix>.*?)(?P<split>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?P<gz>\.gz)?"
)
"""`train-images-idx3-ubyte`, `t10k-labels.idx1-ubyte.gz`, `emnist-letters-train-images-idx3-ubyte.gz`."""

UBYTE = 0x08
IMAGES_AT_ONCE = 1024
MOST_DEFLATED = 1032
"""Largest compression ratio of gzip: a header that states more data is refused."""

FASHION_MNIST = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

NAMES_BY_FIRST_LABELS = {
    bytes((9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9, 5, 5, 7, 9, 1, 0, 6, 4, 3, 1, 4, 8)): FASHION_MNIST,
    bytes((9, 2, 1, 1, 6, 1, 4, 6, 5, 7, 4, 5, 7, 3, 4, 1, 2, 4, 8, 0, 2, 5, 7, 9)): FASHION_MNIST,
}
"""Class names of published data sets, by the first labels of their training and test files. The files hold no
names, and their own names are those of MNIST."""


@final
class IdxSource(Source):
    """A folder with idx files of images and, optionally, of labels.

    Labels are numbers, except those of Fashion-MNIST, which is recognised by its labels.

    An idx file is two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a
    big-endian int32, and the elements. http://yann.lecun.com/exdb/mnist/

    Args:
        path: a folder that holds `train-images-idx3-ubyte`, `t10k-images-idx3-ubyte` and the label files,
            plain or gzipped, with or without a prefix such as `emnist-letters-`.

    Raises:
        InputError: if there is no such file, a header is wrong, or images and labels differ in number; from
            `items`, if a file is shorter or longer than its header states.
    """

    def __init__(self, path: Path):
        files = _find(path)
        self._images = {split: _Idx.read(file, 3) for split, file in files["images"].items()}
        self._labels = {split: _Idx.read(file, 1) for split, file in files["labels"].items()}
        if not self._images:
            raise InputError(f"expected a file such as train-images-idx3-ubyte.gz in {path}, found none")
        for split, labels in self._labels.items():
            if split in self._images and labels.shape[0] != self._images[split].shape[0]:
                raise InputError(
                    f"expected as many labels as images, got {labels.shape[0]:,} labels in {labels.file} and "
                    f"{self._images[split].shape[0]:,} images in {self._images[split].file}: download both "
                    "again"
                )
        self.splits = ordered_splits(self._images)
        sizes = ", ".join(f"{name} {self._images[name].shape[0]:,}" for name in self.splits)
        self.description = f"idx files of {path} ({sizes})"

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return True for a folder that holds an idx file of images."""
        names = (FILE_NAME.fullmatch(file.name) for file in path.iterdir()) if path.is_dir() else ()
        return any(name is not None and name["kind"] == "images" for name in names)

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return self._images[split].shape[0]

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        labels = [int(label) for label in self._labels[split].elements()] if split in self._labels else None
        names = None if labels is None else names_of(labels)
        images = self._images[split]
        for index, image in enumerate(images.elements()):
            label = None if labels is None else class_name(labels[index], names)
            # The EMNIST files store each image transposed (Cohen et al. 2017 wrote them from MATLAB).
            content = np.ascontiguousarray(image.T) if images.file.name.startswith("emnist-") else image
            yield Item(f"{split}/{index:05d}", content, label)

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        images = self._images[split].file
        return [] if split in self._labels else [f"{images.name} has no labels file beside it"]


def names_of(labels: Sequence[int]) -> tuple[str, ...] | None:
    """Return the class names of the published data set whose labels begin like these, or None."""
    for first, names in NAMES_BY_FIRST_LABELS.items():
        if bytes(labels[: len(first)]) == first:
            return names
    return None


@dataclass(frozen=True)
class _Idx:
    """An idx file whose header has been read and checked."""

    file: Path
    shape: tuple[int, ...]

    @classmethod
    def read(cls, file: Path, ndim: int) -> _Idx:
        """Read the header of a file and check that it has `ndim` dimensions."""
        with _open(file) as stream:
            header = _read(stream, 4 + 4 * ndim, file)
        expected = bytes((0, 0, UBYTE, ndim))
        if header[:4] != expected:
            raise InputError(
                f"expected an idx file of bytes in {ndim} dimensions, which begins with {expected.hex(' ')}, "
                f"got {file}, which begins with {header[:4].hex(' ') or 'nothing'}: download it again"
            )
        if len(header) < 4 + 4 * ndim:
            raise _wrong_length(file, "its header", 4 + 4 * ndim, len(header))
        shape = struct.unpack(f">{ndim}I", header[4:])
        if not all(shape):
            raise InputError(f"expected images or labels in {file}, got an array of shape {shape}")
        most = file.stat().st_size * (MOST_DEFLATED if file.suffix == ".gz" else 1)
        if math.prod(shape) > most:
            raise _wrong_length(file, f"shape {shape}", math.prod(shape), most)
        return cls(file, shape)

    def elements(self) -> Iterator[np.ndarray]:
        """Yield the entries of the file along its first dimension."""
        inner = self.shape[1:]
        bytes_each = math.prod(inner)
        with _open(self.file) as stream:
            _read(stream, 4 + 4 * len(self.shape), self.file)
            for start in range(0, self.shape[0], IMAGES_AT_ONCE):
                num = min(IMAGES_AT_ONCE, self.shape[0] - start)
                raw = _read(stream, num * bytes_each, self.file)
                if len(raw) < num * bytes_each:
                    received = start * bytes_each + len(raw)
                    raise _wrong_length(self.file, f"shape {self.shape}", math.prod(self.shape), received)
                yield from np.frombuffer(raw, np.uint8).reshape(num, *inner)
            if _read(stream, 1, self.file):
                raise InputError(
                    f"expected {self.file} to end after the {self.shape[0]:,} entries of its header, "
                    "got more: download it again"
                )


def _find(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the files by kind and split; a plain file takes precedence over its gzipped copy.

    Raises:
        InputError: if the folder does not exist, or holds the files of several data sets.
    """
    if not folder.is_dir():
        raise InputError(f"expected a folder with idx files, got {folder}, which is not a folder")
    names = {file: FILE_NAME.fullmatch(file.name) for file in sorted(folder.iterdir(), reverse=True)}
    found = {file: name for file, name in names.items() if name is not None}
    prefixes = sorted({name["prefix"] for name in found.values()})
    if len(prefixes) > 1:
        raise InputError(
            f"expected the idx files of one data set in {folder}, got those of {len(prefixes)}, beginning "
            f"with {', '.join(prefix or 'train-' for prefix in prefixes)}: put each into its own folder"
        )
    files: dict[str, dict[str, Path]] = {"images": {}, "labels": {}}
    for file, name in found.items():
        files[name["kind"]]["train" if name["split"] == "train" else "test"] = file
    return files


def _open(file: Path) -> io.BufferedIOBase:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def _read(stream: io.BufferedIOBase, size: int, file: Path) -> bytes:
    """Read `size` bytes, or fewer at the end of the file."""
    try:
        return stream.read(size)
    except EOFError as error:
        raise InputError(
            f"expected a complete gzip file, got {file}, which is truncated: download it again"
        ) from error
    except (OSError, zlib.error) as error:
        raise InputError(
            f"expected a gzip file, got {file}, which is damaged or not gzip: download it again"
        ) from error


def _wrong_length(file: Path, what: str, expected: int, received: int) -> InputError:
    return InputError(
        f"expected {expected:,} bytes for {what} in {file}, got {received:,}: it is truncated, download it "
        "again"
    )
