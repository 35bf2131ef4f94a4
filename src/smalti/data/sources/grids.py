"""Tile grids: small images packed into a few large ones, with a file of labels."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image

from smalti.core.errors import InputError
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import SPLIT_ORDER, class_name, ordered_splits, require_split
from smalti.data.sources.listing import ignored

GRID_NAME = re.compile(rf"(?P<split>{'|'.join(SPLIT_ORDER)})_(?P<number>\d+)\.(webp|png)")
LABELS_NAME = "labels.npz"

MOST_LABEL_BYTES = 64 << 20
"""Size limit of an array of labels: 8 million int64."""

SIDE = 32
"""Tiles per row, and the maximum number of rows per grid."""
TILES = SIDE * SIDE

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Class names from CIFAR-10's `batches.meta`, so that models trained on any format of it agree."""


@final
class TileGridSource(Source):
    """A folder of grids `train_00.webp`, `train_01.webp`, ..., `test_00.webp` (or .png), and `labels.npz`.

    A grid is 32 tiles wide, has up to 32 rows, and is filled row by row; a tile is one image. The labels are
    the arrays `train_y` and `test_y` of `labels.npz`. All grids of a split but the last are full, and the
    last holds the images of the remaining labels. If the labels are 0..9 and the tiles are 32x32 colour
    images, the classes get the names of CIFAR-10; otherwise their names are their numbers.

    Args:
        path: the folder.

    Raises:
        InputError: if grids or labels are missing, superfluous or damaged, or tiles differ in size.
    """

    def __init__(self, path: Path):
        files = _find(path)
        if not files:
            raise InputError(f"expected a grid such as train_00.webp in {path}, found none")
        self._labels = {split: _read_labels(path / LABELS_NAME, f"{split}_y") for split in files}
        self._grids = {split: _read_grids(files[split], len(self._labels[split])) for split in files}
        first, *others = (grid for grids in self._grids.values() for grid in grids)
        for grid in others:
            if (grid.tile, grid.mode) != (first.tile, first.mode):
                raise InputError(
                    f"expected tiles of side {first.tile}, mode {first.mode}, in {grid.file}, as in "
                    f"{first.file.name}, got {grid.tile}, {grid.mode}: put each data set into its own folder"
                )
        classes = {label for labels in self._labels.values() for label in labels}
        is_cifar = classes == set(range(10)) and (first.tile, first.mode) == (32, "RGB")
        self._names = CIFAR10_CLASSES if is_cifar else None
        self.splits = ordered_splits(files)
        self._others = _others(path)
        sizes = ", ".join(f"{name} {len(self._labels[name]):,}" for name in self.splits)
        self.description = f"grids of tiles {path} ({sizes})"

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return True for a folder that holds `labels.npz` and at least one grid."""
        return path.is_dir() and (path / LABELS_NAME).is_file() and bool(_find(path))

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return len(self._labels[split])

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        labels = self._labels[split]
        for number, grid in enumerate(self._grids[split]):
            start = number * TILES
            for index, tile in enumerate(grid.tiles()[: len(labels) - start], start):
                yield Item(f"{split}/{index:05d}", tile, class_name(labels[index], self._names))

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        return ignored(self._others, "file", "beside the grids") if split == self.splits[0] else []


@dataclass(frozen=True)
class _Grid:
    """A grid file whose header has been read."""

    file: Path
    tile: int
    rows: int
    mode: str

    @classmethod
    def read(cls, file: Path) -> _Grid:
        """Read the header and check that the grid divides into tiles."""
        with _open(file) as image:
            width, height = image.size
            mode = image.mode
        tile, rest = divmod(width, SIDE)
        if rest or not tile or height % tile or height > width or mode not in ("L", "RGB"):
            raise InputError(
                f"expected square tiles, {SIDE} in a row and at most {SIDE} rows, mode RGB or L, in {file}, "
                f"got {width}x{height} pixels, mode {mode}: write the grid again"
            )
        return cls(file, tile, height // tile, mode)

    def tiles(self) -> np.ndarray:
        """Return all tiles, including empty ones, as uint8 `(N, T, T)` or `(N, T, T, 3)`."""
        with _open(self.file) as image:
            pixels = np.asarray(image)
        shape = (self.rows, self.tile, SIDE, self.tile, *pixels.shape[2:])
        return pixels.reshape(shape).swapaxes(1, 2).reshape(-1, self.tile, self.tile, *pixels.shape[2:])


def _find(folder: Path) -> dict[str, list[Path]]:
    """Return the grids of each split, sorted by number."""
    names = ((file, GRID_NAME.fullmatch(file.name)) for file in folder.iterdir())
    found = sorted((name["split"], int(name["number"]), file) for file, name in names if name is not None)
    return {split: [file for *_, file in group] for split, group in groupby(found, key=itemgetter(0))}


def _others(folder: Path) -> list[str]:
    """Return the names of the other files in the folder, without hidden ones."""
    files = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name != LABELS_NAME)
    return [name for name in files if not (GRID_NAME.fullmatch(name) or name.startswith("."))]


def _read_labels(file: Path, name: str) -> list[int]:
    """Read one array of the labels file, without unpickling anything."""
    try:
        with file.open("rb") as stream:
            with zipfile.ZipFile(stream) as archive:
                _require_small(
                    [entry for entry in archive.infolist() if Path(entry.filename).stem == name], file
                )
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                labels = arrays[name] if name in arrays.files else None
    except InputError:
        raise
    except Exception as error:
        # A damaged file fails in zipfile, zlib or numpy, each with its own errors.
        raise InputError(
            f"expected a complete .npz file of numbers, got {file}, which is damaged or of another format: "
            "download it again"
        ) from error
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        received = "no such array" if labels is None else f"{labels.dtype} {labels.shape}"
        raise InputError(
            f"expected the labels {name}, integers (N,), in {file}, got {received}: add the labels, or "
            f"remove the grids {name.removesuffix('_y')}_..."
        )
    return labels.tolist()


def _require_small(entries: Sequence[zipfile.ZipInfo], file: Path) -> None:
    """Refuse entries that are too large or not deflated.

    A few kB of a zip file can expand to many GB, and other methods than deflate expand them in one step.
    """
    for entry in entries:
        if entry.file_size > MOST_LABEL_BYTES:
            raise InputError(
                f"expected at most {MOST_LABEL_BYTES:,} bytes in {entry.filename} of {file}, got "
                f"{entry.file_size:,}: it is not the original file, download it again"
            )
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{entry.filename} has a compression method that numpy does not write")


def _read_grids(files: Sequence[Path], num_images: int) -> list[_Grid]:
    """Read the headers of a split's grids and check that they hold `num_images` images."""
    split = files[0].name.partition("_")[0]
    full, rest = divmod(num_images, TILES)
    rows = [SIDE] * full + [math.ceil(rest / SIDE)] * bool(rest)
    numbers = [int(file.stem.partition("_")[2]) for file in files]
    if numbers != list(range(len(rows))):
        raise InputError(
            f"expected {len(rows)} grids, {split}_00 and so on, for the {num_images:,} labels {split}_y in "
            f"{files[0].parent}, got {', '.join(file.name for file in files)}: download all of them"
        )
    grids = [_Grid.read(file) for file in files]
    for grid, expected in zip(grids, rows, strict=True):
        # The last grid may have empty rows.
        if grid.rows not in (expected, SIDE):
            raise InputError(
                f"expected {expected} rows of tiles in {grid.file} for the {num_images:,} labels {split}_y, "
                f"got {grid.rows}: download both files again"
            )
    return grids


@contextmanager
def _open(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    except Exception as error:
        # Pillow raises errors of a dozen types for damaged files.
        raise InputError(
            f"expected an image in {file}, which is damaged or of another format: download it again"
        ) from error
