"""The file of codes: Parquet with a row for each item, which `datasets`, DuckDB, pandas and Spark can read.

Columns `name` (string), `label` (string or null) and `codes` (list of int32: a code grid `(G, *grid)`,
row-major). What the codes mean is JSON under the key `smalti` of the schema's metadata. The first side of the
grid is null there where items differ in it: a row's length then tells it.
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

FORMAT = 1
"""Version of the layout; raised when an older smalti could no longer read it."""

METADATA_KEY = b"smalti"
_ROW_GROUP_CODES = 1 << 20
"""Codes in a row group: large enough to compress and scan well, small enough to hold in memory."""
_NO_CODES_FILE = "is not a file of codes written by smalti"

CodesBatch = tuple[list[str], Int64[np.ndarray, "_ _ ..."], list[str | None]]
"""Names, codes `(B, G, *grid)` and class names of some items; B may differ between batches."""


class CodesInfo(Configuration):
    """What a file of codes says of itself.

    Attributes:
        grid: positions of the codes of one item; None as its first side where items differ in it.
        num_codebooks: codes at each position, G.
        num_codes: entries of each codebook; codes are in [0, num_codes).
        model: fingerprint of the tokenizer, hexadecimal.
        classes: class names, by id.
        version: of the smalti that wrote it.
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
            raise ValueError(f"expected sides that are numbers but for the first, received {grid}")
        return grid

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of the codes of one item, `(G, *grid)`."""
        return (self.num_codebooks, *self.grid)

    @property
    def is_ragged(self) -> bool:
        """Whether items differ in their first side."""
        return bool(self.grid) and self.grid[0] is None

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether an item may have codes of this shape."""
        return len(shape) == len(self.shape) and all(
            side == expected or (expected is None and side > 0)
            for side, expected in zip(shape, self.shape, strict=True)
        )


def write_codes(path: str | Path, info: CodesInfo, batches: Iterable[CodesBatch]) -> int:
    """Write a file of codes, batch by batch; it appears, or replaces another, when it is complete.

    Args:
        path: the file.
        info: what the codes mean.
        batches: names, int64 codes `(B, G, *grid)` and class names (or None) of the items.

    Returns:
        The number of items.

    Raises:
        InputError: for codes of another shape or out of range, when there are none, or on a full disk.
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
        if not count:
            raise InputError(f"there are no codes to write to {path}: check the data that was encoded")
    return count


def read_codes(path: str | Path, batch_size: int = 1024) -> tuple[CodesInfo, Iterator[CodesBatch]]:
    """What a file of codes says of itself, and its batches, each checked before it is given out.

    The codes may come from strangers: nothing in the file can run, and shapes and ranges are checked.

    Raises:
        InputError: when it is no such file, a newer smalti wrote it, or codes have another number or range.
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
    """Refuse codes of another tokenizer.

    Raises:
        InputError: when the model, the grid or the codebooks differ.
    """
    if info.model != expected.model:
        raise InputError(
            f"expected codes of the model {expected.model[:12]}, received codes of {info.model[:12]}: "
            f"encode the data with this model, or use the model that made them"
        )
    received_layout = (*info.shape, info.num_codes)
    if received_layout != (*expected.shape, expected.num_codes):
        raise InputError(
            f"expected codes of shape {expected.shape} out of {expected.num_codes}, received {info.shape} "
            f"out of {info.num_codes}: encode the data again, with the same sizes"
        )


def _row_groups(info: CodesInfo, batches: Iterable[CodesBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Batches of any size, checked and joined to row groups of a useful size."""
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
            # Other tools write the same rows with int64, large or dictionary types.
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
    # Ragged items come one by one, and each says by its length how many positions it has.
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
            f"cannot be of this codebook; encode the data again"
        )


def _parse_info(path: Path, content: bytes) -> CodesInfo:
    try:
        fields = json.loads(content)
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
    """Turn what pyarrow raises about a file into a sentence about it."""
    if not path.is_file():
        raise InputError(f"expected a file of codes, {path} does not exist: make one with smalti encode")
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a Parquet file, or is damaged: encode the data again") from error
