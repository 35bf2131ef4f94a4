"""The codes file: Parquet with one row per item, which `datasets`, DuckDB, pandas and Spark can read.

Its columns are `name` (string), `label` (string or null) and `codes` (list of int32: a code grid
`(G, *grid)`, row-major). The schema's metadata holds a `CodesInfo` as JSON under the key `smalti`. If items
differ in the first side of the grid, that side is null there and follows from the length of each row. If they
differ in more sides, these are null, and two more columns have the grid and the size of each original:
`grid` and `size` (lists of int32).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64
from pydantic import Field, PositiveInt, ValidationError, field_validator

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.metadata import parse_json

FORMAT = 2
"""Newest version of the layout: 2 for files with a grid of each item, 1 for all others, which an older smalti
can read."""

METADATA_KEY = b"smalti"
_ROW_GROUP_CODES = 1 << 20
"""Codes per row group: large enough to compress and scan well, small enough to hold in memory."""
_NO_CODES_FILE = "is not a file of codes written by smalti"
_DAMAGED = "the file is damaged or edited; encode the data again"
_COLUMNS = ("name", "label", "codes")
_OWN_GRIDS = ("grid", "size")
"""Columns of files whose items differ in several sides of the grid."""
_Sides = list[tuple[int, ...]] | None


class CodesBatch(NamedTuple):
    """A batch of items; its size may differ between batches.

    Attributes:
        names: of the items.
        codes: `(B, G, *grid)`.
        labels: class names.
        sizes: size of each original, of items that differ in several sides of the grid.
    """

    names: list[str]
    codes: Int64[np.ndarray, "_ _ ..."]
    labels: list[str | None]
    sizes: list[tuple[int, ...]] | None = None


AnyBatch = CodesBatch | tuple[list[str], Int64[np.ndarray, "_ _ ..."], list[str | None]]
"""A batch to write, as `CodesBatch` or as its first three fields."""


class CodesInfo(Configuration):
    """Metadata of a codes file.

    Attributes:
        grid: shape of one item's grid of code positions; its first sides are None if items differ in them.
        num_codebooks: codes at each position, G.
        num_codes: entries of each codebook; codes are in [0, num_codes).
        model: fingerprint of the tokenizer, hexadecimal.
        classes: class names, by id.
        version: smalti version that wrote the file.
    """

    grid: tuple[PositiveInt | None, ...]
    num_codebooks: PositiveInt
    num_codes: Annotated[int, Field(gt=0, lt=2**31)]
    model: str
    classes: tuple[str, ...] = ()
    version: str = version("smalti")

    @field_validator("grid")
    @classmethod
    def _the_first_sides_differ(cls, grid: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if None in grid[grid.count(None) :]:
            raise ValueError(f"expected null as the first sides only, received {grid}")
        return grid

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of the codes of one item, `(G, *grid)`."""
        return (self.num_codebooks, *self.grid)

    @property
    def is_ragged(self) -> bool:
        """True if items differ in the first side of the grid."""
        return bool(self.grid) and self.grid[0] is None

    @property
    def has_own_grids(self) -> bool:
        """True if items differ in more sides, so that the file has the grid and the size of each."""
        return self.grid.count(None) > 1

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Return True if an item's codes may have this shape."""
        return len(shape) == len(self.shape) and all(
            side == expected or (expected is None and side > 0)
            for side, expected in zip(shape, self.shape, strict=True)
        )


def write_codes(
    path: str | Path, info: CodesInfo, batches: Iterable[AnyBatch], may_be_empty: bool = False
) -> int:
    """Write a codes file atomically, batch by batch, replacing an existing one.

    Args:
        path: path of the file.
        info: metadata of the file.
        batches: the items; with sizes, if `info.has_own_grids`.
        may_be_empty: whether to write a file without items, as one of several files may be.

    Returns:
        The number of items.

    Raises:
        InputError: if the codes have another shape or are out of range, if there are none, or if the disk is
            full.
    """
    path = Path(path)
    layout = FORMAT if info.has_own_grids else 1
    metadata = {METADATA_KEY: json.dumps({"format": layout, **info.model_dump()}).encode()}
    columns = {"name": pa.string(), "label": pa.string(), "codes": pa.list_(pa.int32())}
    columns |= dict.fromkeys(_columns_of(info)[3:], pa.list_(pa.int32()))
    schema = pa.schema(list(columns.items()), metadata=metadata)
    count = 0
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in _row_groups(info, batches, schema):
            count += len(table)
            writer.write_table(table)
        if not count and not may_be_empty:
            raise InputError(f"there are no codes to write to {path}: check the data that was encoded")
    return count


def read_codes(path: str | Path, batch_size: int = 1024) -> tuple[CodesInfo, Iterator[CodesBatch]]:
    """Read a codes file: its metadata, and an iterator over its batches.

    The file is untrusted: reading executes nothing from it, and shapes and ranges are checked batch by batch.

    Args:
        path: path of the file.
        batch_size: items per batch; items of ragged codes come one by one.

    Raises:
        InputError: if it is not a codes file or was written by a newer smalti; from the iterator, if codes
            have another shape or range than the metadata states.
    """
    path = Path(path)
    with _parquet_errors(path), pq.ParquetFile(path) as file:
        metadata = file.schema_arrow.metadata or {}
        names = set(file.schema_arrow.names)
    _check_columns(path, names, _COLUMNS)
    if METADATA_KEY not in metadata:
        raise InputError(f"{path} {_NO_CODES_FILE} (it has no smalti metadata): make one with smalti encode")
    info = _parse_info(path, metadata[METADATA_KEY])
    _check_columns(path, names, _columns_of(info))
    return info, _batches(path, info, batch_size)


def check_codes(info: CodesInfo, expected: CodesInfo, same: Sequence[str] = ()) -> None:
    """Check that codes come from the expected tokenizer.

    Args:
        info: of the codes.
        expected: of the tokenizer.
        same: fingerprints of other tokenizers with the same codes.

    Raises:
        InputError: if the model, the grid or the codebooks differ.
    """
    if info.model not in (expected.model, *same):
        raise InputError(
            f"expected codes of the model {expected.model[:12]}, received codes of {info.model[:12]}: "
            f"encode the data with this model, or use the model that encoded it"
        )
    received_layout = (*info.shape, info.num_codes)
    if received_layout != (*expected.shape, expected.num_codes):
        raise InputError(
            f"expected codes of shape {expected.shape} out of {expected.num_codes}, received {info.shape} "
            f"out of {info.num_codes}: encode the data again with the same sizes"
        )


def _check_columns(path: Path, names: set[str], needed: Sequence[str]) -> None:
    if missing := sorted(set(needed) - names):
        raise InputError(
            f"{path} {_NO_CODES_FILE} (it has no columns {missing}): make one with smalti encode"
        )


def _columns_of(info: CodesInfo) -> tuple[str, ...]:
    """Names of the columns of a file, in order."""
    return (*_COLUMNS, *(_OWN_GRIDS if info.has_own_grids else ()))


def _row_groups(info: CodesInfo, batches: Iterable[AnyBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Check batches of any size and join them into row groups of at least `_ROW_GROUP_CODES` codes."""
    pending: list[pa.Table] = []
    waiting = 0
    for batch in batches:
        names, codes, labels = batch[:3]
        sizes = batch.sizes if isinstance(batch, CodesBatch) else None
        if not info.admits(codes.shape[1:]) or not len(codes) == len(labels) == len(names):
            raise InputError(
                f"expected {len(names)} labels and codes of shape {(len(names), *info.shape)} "
                f"for {len(names)} names, received {len(labels)} labels and codes of "
                f"shape {codes.shape}: encode the data again"
            )
        _check_range("the codes to write", codes, info.num_codes)
        per_item = math.prod(codes.shape[1:])
        offsets = np.arange(0, codes.size + 1, per_item, dtype=np.int32)
        lists = pa.ListArray.from_arrays(offsets, codes.reshape(-1).astype(np.int32))
        columns = [pa.array(names, pa.string()), pa.array(labels, pa.string()), lists]
        if info.has_own_grids:
            grids = [list(codes.shape[2:])] * len(names)
            columns += [pa.array(each, pa.list_(pa.int32())) for each in (grids, _checked(sizes, codes))]
        pending.append(pa.Table.from_arrays(columns, schema=schema))
        waiting += codes.size
        if waiting >= _ROW_GROUP_CODES:
            yield pa.concat_tables(pending)
            pending, waiting = [], 0
    if waiting:
        yield pa.concat_tables(pending)


def _checked(sizes: list[tuple[int, ...]] | None, codes: Int64[np.ndarray, "b g *grid"]) -> list[list[int]]:
    """Check that there is a size for each item, with as many sides as its grid."""
    given = [list(size) for size in sizes or ()]
    if len(given) != len(codes) or any(len(size) != codes.ndim - 2 or min(size) < 1 for size in given):
        raise InputError(
            f"expected the size of each of {len(codes)} items, with {codes.ndim - 2} sides, received "
            f"{given}: pass sizes with the codes"
        )
    return given


def _batches(path: Path, info: CodesInfo, batch_size: int) -> Iterator[CodesBatch]:
    with _parquet_errors(path), pq.ParquetFile(path) as file:
        for record in file.iter_batches(batch_size, columns=list(_columns_of(info))):
            # Other tools rewrite these columns with int64, large or dictionary types.
            lists = record.column("codes").cast(pa.list_(pa.int64()))
            names = record.column("name").cast(pa.string()).to_pylist()
            if None in names:
                raise InputError(f"expected a name for each item in {path}, received null: {_DAMAGED}")
            labels = record.column("label").cast(pa.string()).to_pylist()
            if not info.is_ragged:
                yield CodesBatch(names, _to_array(path, lists, info, info.shape), labels)
                continue
            grids, sizes = _own_grids(path, record, info)
            for row, (name, label) in enumerate(zip(names, labels, strict=True)):
                own = lists.slice(row, 1)
                shape = _ragged_shape(own, info) if grids is None else (info.num_codebooks, *grids[row])
                size = None if sizes is None else [sizes[row]]
                yield CodesBatch([name], _to_array(path, own, info, shape), [label], size)


def _own_grids(path: Path, record: pa.RecordBatch, info: CodesInfo) -> tuple[_Sides, _Sides]:
    """Return the grid and the size of each item; None if the length of a row gives its grid."""
    if not info.has_own_grids:
        return None, None
    given = []
    for name in _OWN_GRIDS:
        rows = record.column(name).cast(pa.list_(pa.int64())).to_pylist()
        for row in rows:
            sides = row or [0]
            # A grid that is too large for its row is refused with the row.
            if len(sides) != len(info.grid) or any(side is None or side < 1 for side in sides):
                raise InputError(
                    f"expected {len(info.grid)} positive sides in the column {name} of {path}, received "
                    f"{row}: {_DAMAGED}"
                )
        given.append([tuple(row) for row in rows])
    if not all(info.admits((info.num_codebooks, *grid)) for grid in given[0]):
        raise InputError(f"expected grids like {info.grid} in {path}, received others: {_DAMAGED}")
    return given[0], given[1]


def _ragged_shape(row: pa.ListArray, info: CodesInfo) -> tuple[int, ...]:
    """Shape of an item's codes, by the length of its row."""
    fixed = math.prod(side for side in info.shape if side is not None)
    positions = max(1, len(row.flatten()) // fixed)
    return tuple(positions if side is None else side for side in info.shape)


def _to_array(
    path: Path, lists: pa.ListArray, info: CodesInfo, shape: tuple[int | None, ...]
) -> Int64[np.ndarray, "b g *grid"]:
    """Codes of some rows, all of one shape."""
    lengths = np.diff(lists.offsets.to_numpy())
    per_item = math.prod(side for side in shape if side is not None)
    flat = lists.flatten()
    if lists.null_count or flat.null_count or (lengths != per_item).any():
        wrong = next((str(length) for length in lengths if length != per_item), "missing codes")
        raise InputError(
            f"expected {per_item} codes an item in {path} (shape {info.shape}), received {wrong}: {_DAMAGED}"
        )
    codes = flat.to_numpy().reshape(len(lists), *shape)
    _check_range(str(path), codes, info.num_codes)
    return codes


def _check_range(what: str, codes: Int64[np.ndarray, "b g *grid"], num_codes: int) -> None:
    if codes.size and (codes.min() < 0 or codes.max() >= num_codes):
        raise InputError(
            f"expected codes from 0 to {num_codes - 1}, received {codes.min()} to {codes.max()}: {what} "
            f"cannot come from this codebook; encode the data again"
        )


def _parse_info(path: Path, content: bytes) -> CodesInfo:
    try:
        fields = parse_json(content)
        newer = fields.pop("format")
        if isinstance(newer, int) and newer > FORMAT:
            raise InputError(
                f"{path} was written by a newer version of smalti (format {newer}; "
                f"this one reads up to {FORMAT}): run pip install -U smalti"
            )
        return CodesInfo.model_validate(fields)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise InputError(
            f"{path} {_NO_CODES_FILE} (its metadata is damaged): encode the data again"
        ) from error


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    """Convert errors of pyarrow about a file to `InputError`."""
    if not path.is_file():
        raise InputError(f"expected a file of codes, {path} does not exist: make one with smalti encode")
    try:
        yield
    except InputError:
        raise
    # Of damaged or odd tables: names that are no Unicode, two columns of one name, sizes beyond 64 bits, ...
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise InputError(f"{path} is not a Parquet file, or is damaged: encode the data again") from error
