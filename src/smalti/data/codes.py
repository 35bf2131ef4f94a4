"""The codes file: Parquet with one row per item, which `datasets`, DuckDB, pandas and Spark can read.

Its columns are `name` (string), `label` (string or null) and `codes` (list of int32: a code grid
`(G, *grid)`, row-major). The schema's metadata holds a `CodesInfo` as JSON under the key `smalti`. If items
differ in the first side of the grid, that side is null there and follows from the length of each row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64
from pydantic import Field, PositiveInt, ValidationError, field_validator

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.metadata import parse_json

FORMAT = 1
"""Version of the layout, incremented when an older smalti could no longer read the files."""

METADATA_KEY = b"smalti"
_ROW_GROUP_CODES = 1 << 20
"""Codes per row group: large enough to compress and scan well, small enough to hold in memory."""
_NO_CODES_FILE = "is not a file of codes written by smalti"

CodesBatch = tuple[list[str], Int64[np.ndarray, "_ _ ..."], list[str | None]]
"""Names, codes `(B, G, *grid)` and class names of a batch of items; B may differ between batches."""


class CodesInfo(Configuration):
    """Metadata of a codes file.

    Attributes:
        grid: shape of one item's grid of code positions; its first side is None if items differ in it.
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
    def _only_the_first_side_differs(cls, grid: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if None in grid[1:]:
            raise ValueError(f"expected null as the first side only, received {grid}")
        return grid

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of the codes of one item, `(G, *grid)`."""
        return (self.num_codebooks, *self.grid)

    @property
    def is_ragged(self) -> bool:
        """True if items differ in the first side of the grid."""
        return bool(self.grid) and self.grid[0] is None

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Return True if an item's codes may have this shape."""
        return len(shape) == len(self.shape) and all(
            side == expected or (expected is None and side > 0)
            for side, expected in zip(shape, self.shape, strict=True)
        )


def write_codes(
    path: str | Path, info: CodesInfo, batches: Iterable[CodesBatch], may_be_empty: bool = False
) -> int:
    """Write a codes file atomically, batch by batch, replacing an existing one.

    Args:
        path: path of the file.
        info: metadata of the file.
        batches: names, int64 codes `(B, G, *grid)` and class names (or None) of the items.
        may_be_empty: whether to write a file without items, as one of several files may be.

    Returns:
        The number of items.

    Raises:
        InputError: if the codes have another shape or are out of range, if there are none, or if the disk is
            full.
    """
    path = Path(path)
    metadata = {METADATA_KEY: json.dumps({"format": FORMAT, **info.model_dump()}).encode()}
    schema = pa.schema(
        [("name", pa.string()), ("label", pa.string()), ("codes", pa.list_(pa.int32()))], metadata=metadata
    )
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
        missing = {"name", "label", "codes"} - set(file.schema_arrow.names)
    if METADATA_KEY not in metadata or missing:
        what = f"it has no columns {sorted(missing)}" if missing else "it has no smalti metadata"
        raise InputError(f"{path} {_NO_CODES_FILE} ({what}): make one with smalti encode")
    info = _parse_info(path, metadata[METADATA_KEY])
    return info, _batches(path, info, batch_size)


def check_codes(info: CodesInfo, expected: CodesInfo) -> None:
    """Check that codes come from the expected tokenizer.

    Raises:
        InputError: if the model, the grid or the codebooks differ.
    """
    if info.model != expected.model:
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


def _row_groups(info: CodesInfo, batches: Iterable[CodesBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Check batches of any size and join them into row groups of at least `_ROW_GROUP_CODES` codes."""
    pending: list[pa.Table] = []
    waiting = 0
    for names, codes, labels in batches:
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
        pending.append(pa.Table.from_arrays(columns, schema=schema))
        waiting += codes.size
        if waiting >= _ROW_GROUP_CODES:
            yield pa.concat_tables(pending)
            pending, waiting = [], 0
    if waiting:
        yield pa.concat_tables(pending)


def _batches(path: Path, info: CodesInfo, batch_size: int) -> Iterator[CodesBatch]:
    with _parquet_errors(path), pq.ParquetFile(path) as file:
        for record in file.iter_batches(batch_size, columns=["name", "label", "codes"]):
            # Other tools rewrite these columns with int64, large or dictionary types.
            lists = record.column("codes").cast(pa.list_(pa.int64()))
            names = record.column("name").cast(pa.string()).to_pylist()
            if None in names:
                raise InputError(
                    f"expected a name for each item in {path}, received null: "
                    f"the file is damaged or edited; encode the data again"
                )
            labels = record.column("label").cast(pa.string()).to_pylist()
            if info.is_ragged:
                for row, (name, label) in enumerate(zip(names, labels, strict=True)):
                    yield [name], _to_array(path, lists.slice(row, 1), info), [label]
            else:
                yield names, _to_array(path, lists, info), labels


def _to_array(path: Path, lists: pa.ListArray, info: CodesInfo) -> Int64[np.ndarray, "b g *grid"]:
    lengths = np.diff(lists.offsets.to_numpy())
    fixed = math.prod(side for side in info.shape if side is not None)
    # Ragged items come one by one; the length of a row gives its number of positions.
    positions = max(1, int(lengths[0]) // fixed) if info.is_ragged else 1
    per_item = fixed * positions
    flat = lists.flatten()
    if lists.null_count or flat.null_count or (lengths != per_item).any():
        wrong = next((str(length) for length in lengths if length != per_item), "missing codes")
        raise InputError(
            f"expected {per_item} codes an item in {path} (shape {info.shape}), received {wrong}: "
            f"the file is damaged or edited; encode the data again"
        )
    shape = [positions if side is None else side for side in info.shape]
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
