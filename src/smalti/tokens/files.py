"""Folders of tokens in the formats of the field, written from batches of codes."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smalti.core.errors import InputError
from smalti.core.files import atomic_directory
from smalti.tokens.layout import TokenLayout

DESCRIPTION = "tokens.json"
ITEMS = "items.parquet"
ITEMS_AT_ONCE = 4096
ITEMS_PER_TAR = 10_000


class TokenItem(NamedTuple):
    """Tokens of one item.

    Attributes:
        name: of the item.
        label: class name, or None.
        grid: sides of its grid of codes.
        tokens: `(n,)`, of the layout's type.
    """

    name: str
    label: str | None
    grid: tuple[int, ...]
    tokens: np.ndarray


class TokenWriter(ABC):
    """Writes tokens item by item into a folder; used as a context manager.

    Args:
        folder: exists, and is empty but for other files of the same export.
        layout: of the tokens.
    """

    def __init__(self, folder: Path, layout: TokenLayout) -> None:
        self._folder, self._layout = folder, layout
        self._files = ExitStack()

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self.finish()
        finally:
            self._files.close()

    @abstractmethod
    def add(self, item: TokenItem) -> None:
        """Append an item."""

    @abstractmethod
    def finish(self) -> None:
        """Complete the files."""


def write_tokens(
    folder: Path,
    layout: TokenLayout,
    items: Iterable[tuple[str, np.ndarray, str | None]],
    kind: str,
) -> int:
    """Write a folder of tokens and their description, and return the number of items.

    Args:
        folder: must not exist.
        layout: of the tokens.
        items: name, codes `(G, *grid)` and class name of each item.
        kind: a key of `WRITERS`.

    Raises:
        InputError: if codes do not fit the layout, there are none, or the disk is full.
    """
    num = 0
    with atomic_directory(folder) as temporary:
        with WRITERS[kind](temporary, layout) as writer:
            for name, codes, label in items:
                writer.add(TokenItem(name, label, codes.shape[1:], layout.tokens(codes)))
                num += 1
        if not num:
            raise InputError(f"expected codes to write to {folder}, received none: check the codes")
        layout.write(temporary / DESCRIPTION)
    return num


@final
class _Table:
    """A Parquet table that is written row by row."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._rows = schema, list[Mapping[str, Any]]()
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == ITEMS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []


_COLUMNS = [("name", pa.string()), ("label", pa.string()), ("grid", pa.list_(pa.int32()))]


def _row(item: TokenItem) -> dict[str, Any]:
    return {"name": item.name, "label": item.label, "grid": list(item.grid)}


@final
class ParquetTokens(TokenWriter):
    """`tokens.parquet`: the columns name, label, grid and tokens, one row per item."""

    def __init__(self, folder: Path, layout: TokenLayout) -> None:
        super().__init__(folder, layout)
        tokens = ("tokens", pa.list_(pa.from_numpy_dtype(layout.dtype)))
        self._table = _Table(folder / "tokens.parquet", pa.schema([*_COLUMNS, tokens]))

    def add(self, item: TokenItem) -> None:
        self._table.add(_row(item) | {"tokens": item.tokens})

    def finish(self) -> None:
        self._table.close()


@final
class WebDatasetTokens(TokenWriter):
    """`tokens-000000.tar`, ...: `KEY.npy` with the tokens and `KEY.json` with the rest of each item."""

    def __init__(self, folder: Path, layout: TokenLayout) -> None:
        super().__init__(folder, layout)
        self._num = 0
        self._tar: tarfile.TarFile | None = None

    def add(self, item: TokenItem) -> None:
        if self._tar is None or self._num % ITEMS_PER_TAR == 0:
            self._files.close()
            path = self._folder / f"tokens-{self._num // ITEMS_PER_TAR:06d}.tar"
            self._tar = self._files.enter_context(tarfile.TarFile(path, "w"))
        content = io.BytesIO()
        np.save(content, item.tokens)
        key = f"{self._num:09d}"
        _add_member(self._tar, f"{key}.npy", content.getvalue())
        _add_member(self._tar, f"{key}.json", json.dumps(_row(item)).encode())
        self._num += 1

    def finish(self) -> None:
        """Nothing is left to write."""


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # Without times and owners, so that equal items give equal files.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@final
class MegatronTokens(TokenWriter):
    """`tokens.bin` and `tokens.idx`, the indexed data set of Megatron-LM, version 1; an item is a document.

    The .bin file is all tokens, one item after the other. The .idx file is, in little-endian order: the magic
    `MMIDIDX` and two zero bytes; the version, uint64; the code of the tokens' type, uint8; the numbers of
    sequences and of entries of the last array, uint64 each; the lengths of the sequences in tokens, int32;
    their first bytes in the .bin file, int64; the first sequence of each document and the end, int64.
    """

    TYPE_CODES: Mapping[str, int] = {"uint8": 1, "int32": 4, "uint16": 8}
    """Codes of the types used here; the format has no uint32."""

    def __init__(self, folder: Path, layout: TokenLayout) -> None:
        super().__init__(folder, layout)
        self._dtype = layout.dtype if layout.dtype.itemsize < 4 else np.dtype(np.int32)
        self._bin = self._files.enter_context((folder / "tokens.bin").open("wb"))
        self._table = _Table(folder / ITEMS, pa.schema(_COLUMNS))
        self._lengths: list[int] = []

    def add(self, item: TokenItem) -> None:
        self._bin.write(item.tokens.astype(self._dtype.newbyteorder("<")).tobytes())
        self._table.add(_row(item))
        self._lengths.append(len(item.tokens))

    def finish(self) -> None:
        self._table.close()
        lengths = np.array(self._lengths, np.int64)
        pointers = (np.cumsum(lengths) - lengths) * self._dtype.itemsize
        with (self._folder / "tokens.idx").open("wb") as index:
            index.write(b"MMIDIDX\x00\x00")
            index.write(struct.pack("<QB", 1, self.TYPE_CODES[self._dtype.name]))
            index.write(struct.pack("<QQ", len(lengths), len(lengths) + 1))
            index.write(lengths.astype("<i4").tobytes())
            index.write(pointers.astype("<i8").tobytes())
            index.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())


@final
class NpyTokens(TokenWriter):
    """`tokens.npy`, all tokens in one array, and `offsets.npy`, where each item begins, and the end."""

    def __init__(self, folder: Path, layout: TokenLayout) -> None:
        super().__init__(folder, layout)
        self._file: BinaryIO = self._files.enter_context((folder / "tokens.npy").open("wb"))
        self._table = _Table(folder / ITEMS, pa.schema(_COLUMNS))
        self._offsets = [0]
        self._write_header()

    def add(self, item: TokenItem) -> None:
        self._file.write(item.tokens.tobytes())
        self._table.add(_row(item))
        self._offsets.append(self._offsets[-1] + len(item.tokens))

    def finish(self) -> None:
        self._table.close()
        # numpy pads headers so that a longer array's has the same length.
        self._file.seek(0)
        self._write_header()
        np.save(self._folder / "offsets.npy", np.array(self._offsets, np.int64))

    def _write_header(self) -> None:
        fields = {"descr": self._layout.dtype.str, "fortran_order": False, "shape": (self._offsets[-1],)}
        np.lib.format.write_array_header_1_0(self._file, fields)


WRITERS: Mapping[str, Callable[[Path, TokenLayout], TokenWriter]] = {
    "parquet": ParquetTokens,
    "webdataset": WebDatasetTokens,
    "megatron": MegatronTokens,
    "npy": NpyTokens,
}
"""Writers by the name of the format."""
