"""Read arrays from `.npy` and `.npz` files, without unpickling; sizes are checked before allocation."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib import format as npy

from smalti.data.sources.base import UnreadableItem

EXTENSIONS = (".npy", ".npz")

MOST_BYTES = 4 << 30
"""Size limit of an array, since a few kB of a compressed file can expand to any size."""

Fits = Callable[[tuple[int, ...], np.dtype], None]
"""Raises `UnreadableItem` for an unsupported shape or type, before any value is read."""


def read_array(content: Path | bytes, key: str | None, fits: Fits) -> np.ndarray:
    """Read the array in a file.

    Args:
        content: a `.npy` or `.npz` file, or its bytes.
        key: name of the array in an `.npz` file; None if it holds only one.
        fits: checks shape and type.

    Raises:
        UnreadableItem: with the reason, if the array cannot be read.
    """
    with _opened(content) as stream:
        magic = stream.read(6)
        stream.seek(0)
        if magic[:4] == b"PK\x03\x04":
            return _from_archive(stream, key, fits)
        if magic != npy.MAGIC_PREFIX:
            raise UnreadableItem("neither .npy nor .npz: write it with numpy.save or numpy.savez")
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        return _from_stream(stream, size, fits)


def _from_archive(stream: io.BufferedIOBase, key: str | None, fits: Fits) -> np.ndarray:
    with zipfile.ZipFile(cast("Any", stream)) as archive:
        entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if key is None and len(entries) != 1:
            raise UnreadableItem(f"it holds {len(entries)} arrays ({_some(entries)}): name one by data.key")
        name = next(iter(entries)) if key is None else key
        if name not in entries:
            raise UnreadableItem(f"it holds no array {name!r}, only {_some(entries)}: set data.key")
        entry = entries[name]
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnreadableItem("unsupported compression method: write it with numpy.savez")
        with archive.open(entry) as member:
            return _from_stream(cast("io.BufferedIOBase", member), entry.file_size, fits)


def _from_stream(stream: io.BufferedIOBase, size: int, fits: Fits) -> np.ndarray:
    """Read an array, checking its header before reading its values.

    Args:
        stream: stream of a `.npy` file, at its start.
        size: size of the file, in bytes.
        fits: checks shape and type.
    """
    version = npy.read_magic(stream)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise UnreadableItem(f"format {version} of .npy is for structured arrays, not numbers")
    shape, is_fortran, dtype = read_header(stream)
    if dtype.hasobject or dtype.kind not in "iufb":
        raise UnreadableItem(f"values of type {dtype}, expected integers or floats")
    fits(shape, dtype)
    expected = math.prod(shape) * dtype.itemsize
    if expected > MOST_BYTES:
        raise UnreadableItem(f"{expected:,} bytes exceed the limit of {MOST_BYTES:,}: split it")
    if size - stream.tell() < expected:
        raise UnreadableItem("truncated: there are fewer values than its header states")
    data = stream.read(expected)
    if len(data) < expected:
        raise UnreadableItem("damaged: there are fewer values than its header states")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


@contextmanager
def _opened(content: Path | bytes) -> Iterator[io.BufferedIOBase]:
    """Open a file or bytes as a stream; convert every error within to `UnreadableItem`."""
    try:
        with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as stream:
            yield stream
    except UnreadableItem:
        raise
    except OSError as error:
        raise UnreadableItem(error.strerror or str(error)) from error
    # Damaged files fail in zipfile, zlib, tokenize or numpy, each with its own errors.
    except Exception as error:
        raise UnreadableItem(
            f"damaged: {str(error).splitlines()[0] if str(error) else 'unreadable'}"
        ) from error


def _some(names: Any, most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") if names else "nothing"
