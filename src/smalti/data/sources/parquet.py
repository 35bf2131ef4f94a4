"""Parquet files with a column of encoded signals, the storage format of Hugging Face data sets."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smalti.core.errors import InputError
from smalti.core.metadata import parse_json
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import (
    LABEL_COLUMNS,
    SIGNAL_COLUMNS,
    SPLIT_NAMES,
    class_name,
    ordered_splits,
    preferred_first,
    require_split,
    signal_content,
)
from smalti.data.sources.walk import walk

F = TypeVar("F", bound=PurePath)

ROWS_AT_ONCE = 64
BUFFER_BYTES = 1 << 20


class ParquetFiles(ABC):
    """Parquet files of a source.

    Attributes:
        description: of the place.
        root: folder of all files.
        paths: of the files, sorted.
    """

    description: str
    root: PurePath
    paths: Sequence[PurePath]

    @abstractmethod
    def open(self, path: PurePath) -> Any:
        """Return what pyarrow opens: a path or a file object."""

    @abstractmethod
    def content(self, cell: object, path: PurePath) -> Path | bytes:
        """Content of a row's signal, in a file; see `signal_content`."""


@final
class LocalParquetFiles(ParquetFiles):
    """A Parquet file, or those below a folder.

    Args:
        path: the file or folder.
    """

    def __init__(self, path: Path) -> None:
        self.description = str(path)
        self.root = path if path.is_dir() else path.parent
        self.paths = parquet_files(path) if path.is_dir() else [path]

    def open(self, path: PurePath) -> Any:
        return path

    def content(self, cell: object, path: PurePath) -> Path | bytes:
        return signal_content(cell, Path(path).parent)


@final
class ParquetSource(Source):
    """A Parquet file, or the Parquet files below a folder or an address.

    The signal is a binary column or a struct with a field `bytes` (and `path`); the class is a column such as
    `label`, with the class names that Hugging Face stores in the schema. The split is stated by a file name
    such as `train-00000-of-00002.parquet`, or by a folder called train.

    Args:
        place: the file or folder, or the files of another place.
        of_arrays: read the signal from a column of nested lists of numbers instead of encoded files.

    Raises:
        InputError: if a file is not Parquet, has no signal column or no rows, or if only some of the files
            state their split.
    """

    def __init__(self, place: Path | ParquetFiles, of_arrays: bool = False):
        self._place = place if isinstance(place, ParquetFiles) else LocalParquetFiles(place)
        files, path = self._place.paths, self._place.description
        if not files:
            raise InputError(f"expected a folder with .parquet files, found none in {path}")
        self._files = files_by_split(files, self._place.root)
        self.splits = ordered_splits(self._files)
        self._schema = read_footer(self._place.open(files[0]))[0]
        self._of_arrays = of_arrays
        self._signal = signal_column(self._schema, files[0], of_arrays)
        self._label = _label_column(self._schema)
        self._names = class_names(self._schema, self._label)
        self._num_rows = {file: self._rows(file) for split in self.splits for file in self._files[split]}
        self._counts = {
            split: sum(self._num_rows[file] for file in self._files[split]) for split in self.splits
        }
        if not any(self._counts.values()):
            raise InputError(f"expected rows in {path}, found none")
        sizes = ", ".join(f"{name} {self._counts[name]:,}" for name in self.splits)
        self.description = f"Parquet {path}, column {self._signal} ({sizes})"

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return True for a .parquet file, or a folder that holds nothing else."""
        if path.is_file():
            return path.suffix.lower() == ".parquet"
        # Every data set of the Hub has a card beside its files.
        visible = [file for file in _visible_files(path) if file.name.lower() != "readme.md"]
        return bool(visible) and all(file.suffix.lower() == ".parquet" for file in visible)

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return self._counts[split]

    def items(self, split: str) -> Iterator[Item]:
        return self.section(split, 0, self.count(split))

    def section(self, split: str, begin: int, end: int) -> Iterator[Item]:
        return self._section(split, begin, end, has_contents=True)

    def annotations(self, split: str) -> Iterator[Item]:
        return self._section(split, 0, self.count(split), has_contents=False)

    def _section(self, split: str, begin: int, end: int, has_contents: bool) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        first = 0
        for file in self._files[split]:
            last = first + self._num_rows[file]
            if first < end and begin < last:
                yield from self._rows_of(
                    file, max(begin, first) - first, min(end, last) - first, has_contents
                )
            first = last

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        others = [name for name in _signal_candidates(self._schema, self._of_arrays) if name != self._signal]
        if not others:
            return []
        return [f"column {self._signal} was used as the signal, column {', '.join(others)} was ignored"]

    def _rows(self, file: PurePath) -> int:
        """Return the number of rows of a file after checking its columns against the first file."""
        schema, rows = read_footer(self._place.open(file))
        for name in filter(None, (self._signal, self._label)):
            expected = self._schema.field(name).type
            received = schema.field(name).type if name in schema.names else "no such column"
            if received != expected:
                raise InputError(
                    f"expected column {name} of type {expected} in {file}, as in the first file, got "
                    f"{received}: put the files of different tables into different folders"
                )
        return rows

    def _rows_of(self, file: PurePath, begin: int, end: int, has_contents: bool) -> Iterator[Item]:
        wanted = (self._signal if has_contents else None, self._label)
        columns = [name for name in wanted if name is not None]
        prefix = file.relative_to(self._place.root).as_posix()
        row = begin
        try:
            # With a buffer, a column of a row group is read in pieces.
            with pq.ParquetFile(self._place.open(file), buffer_size=BUFFER_BYTES) as table:
                groups, skip = _row_groups(table, begin, end)
                for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=columns):
                    rows = batch.slice(min(skip, len(batch)), end - row)
                    skip = max(0, skip - len(batch))
                    unread = [None] * len(rows)
                    cells = rows.column(self._signal).to_pylist() if has_contents else unread
                    labels = unread if self._label is None else rows.column(self._label).to_pylist()
                    for cell, label in zip(cells, labels, strict=True):
                        content = self._content(cell, file) if has_contents else b""
                        yield Item(f"{prefix}#{row}", content, class_name(label, self._names))
                        row += 1
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(
                f"expected intact Parquet in {file}, but it cannot be read after row {row}: download it again"
            ) from error

    def _content(self, cell: Any, file: PurePath) -> Path | bytes | np.ndarray:
        return as_array(cell) if self._of_arrays else self._place.content(cell, file)


def _row_groups(table: pq.ParquetFile, begin: int, end: int) -> tuple[list[int], int]:
    """Return the row groups that hold rows `begin` to `end`, and the place of the first row in them."""
    ends = np.cumsum([0, *(table.metadata.row_group(i).num_rows for i in range(table.num_row_groups))])
    groups = [i for i in range(table.num_row_groups) if ends[i] < end and begin < ends[i + 1]]
    return groups, begin - int(ends[groups[0]]) if groups else 0


def _visible_files(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted by relative path; see `walk` for what is left out."""
    return [folder / name for name in sorted(walk(folder).files)]


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files below a folder, sorted by relative path, without hidden ones."""
    return [file for file in _visible_files(folder) if file.suffix.lower() == ".parquet"]


def _split_of(file: PurePath, root: PurePath) -> str | None:
    """Return the split stated by the file's name, else by its nearest folder, or None."""
    hub_name = re.match(r"([A-Za-z]\w*)-\d+-of-\d+$", file.stem)
    start = hub_name or re.match(rf"({'|'.join(SPLIT_NAMES)})(?![a-z])", file.stem.lower())
    if start:
        return SPLIT_NAMES.get(start[1].lower(), start[1])
    folders = reversed(file.relative_to(root).parts[:-1])
    return next((SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES), None)


def files_by_split(files: Sequence[F], root: PurePath) -> dict[str, list[F]]:
    """Group files by the split that their names or folders below `root` state; "all" if none does.

    Raises:
        InputError: if only some of the files state their split.
    """
    splits: dict[str | None, list[F]] = {}
    for file in files:
        splits.setdefault(_split_of(file, root), []).append(file)
    unnamed = splits.pop(None, [])
    if unnamed and splits:
        named = next(iter(splits.values()))[0]
        raise InputError(
            f"expected every file below {root} to state its split, as {named.name} does, "
            f"got {unnamed[0].name}: rename it to train-..., validation-... or test-..., or move it away"
        )
    return {split: list(group) for split, group in splits.items() if split} or {"all": unnamed}


def read_footer(file: Any) -> tuple[pa.Schema, int]:
    """Read the schema and the number of rows of a file, given by its path or opened.

    Raises:
        InputError: if the file is not Parquet or is damaged, or two of its columns have one name.
    """
    try:
        with pq.ParquetFile(file) as table:
            schema, rows = table.schema_arrow, table.metadata.num_rows
            names = list(schema.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"expected a Parquet file, got {file}, which is damaged or of another format: download it again"
        ) from error
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(
            f"expected columns of different names in {file}, received two columns {repeated!r}: rename one"
        )
    return schema, rows


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _holds_signal(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.StructType):
        return any(part.name == "bytes" and _is_binary(part.type) for part in kind.fields)
    return _is_binary(kind)


def _holds_array(kind: pa.DataType) -> bool:
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth > 0 and (pa.types.is_integer(kind) or pa.types.is_floating(kind))


def as_array(cell: list[Any] | None) -> np.ndarray:
    """Convert nested lists of numbers to an array, null to NaN; ragged lists give an empty object array."""
    try:
        array = np.asarray(cell)
        return array if array.dtype.kind in "iuf" else np.asarray(cell, dtype=np.float64)
    except (ValueError, TypeError):
        return np.empty(0, dtype=object)


def _signal_candidates(schema: pa.Schema, of_arrays: bool = False) -> list[str]:
    holds = _holds_array if of_arrays else _holds_signal
    names = [name for name in schema.names if holds(schema.field(name).type)]
    return preferred_first(names, SIGNAL_COLUMNS)


def signal_column(schema: pa.Schema, file: PurePath, of_arrays: bool = False) -> str:
    """Return the name of the signal column; see `ParquetSource`.

    Raises:
        InputError: if there is none.
    """
    candidates = _signal_candidates(schema, of_arrays)
    if not candidates:
        columns = ", ".join(f"{name} ({schema.field(name).type})" for name in schema.names) or "none"
        if of_arrays:
            raise InputError(
                f"expected a column of nested lists of numbers in {file}, got the columns {columns}: add "
                "such a column"
            )
        raise InputError(
            f"expected a column of encoded files (binary, or a struct with a field bytes) in {file}, got the "
            f"columns {columns}: add such a column, named image or audio"
        )
    return candidates[0]


def _label_column(schema: pa.Schema) -> str | None:
    def is_label(kind: pa.DataType) -> bool:
        if isinstance(kind, pa.DictionaryType):
            kind = kind.value_type
        types = pa.types
        return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)

    candidates = (name for name in LABEL_COLUMNS if name in schema.names)
    return next((name for name in candidates if is_label(schema.field(name).type)), None)


def class_names(schema: pa.Schema, label: str | None) -> list[str] | None:
    """Return the class names that the Hugging Face feature `ClassLabel` stores in the schema, or None."""
    try:
        features = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        # Metadata is optional: without it, class names are numbers.
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
