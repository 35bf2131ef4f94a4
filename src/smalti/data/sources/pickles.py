"""Pickles of arrays and lists, read without running anything that they ask for."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from smalti.interfaces import InputError

NAMES = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""What the pickle of an array names or, when Python 3 wrote it in an old protocol, that of a byte string."""


@final
@dataclass(eq=False)
class Inert:
    """What a pickle gets in place of all that it names: it can be called and given a state, and does nothing.

    So nobody's code runs while a pickle is read, numpy's neither; what came of it is looked at afterwards.
    """

    name: str
    args: tuple[object, ...] = ()
    state: object = field(default=None, init=False)

    def __call__(self, *args: object) -> Inert:
        return Inert(self.name, args)

    def __setstate__(self, state: object) -> None:
        self.state = state


def read_pickle(content: bytes, place: str) -> dict[str, Any]:
    """A pickled dict by its keys as texts; `to_bytes_array` and `to_text` make sense of its values.

    Args:
        content: the pickle, of any protocol, by Python 2 or 3.
        place: what errors call it.

    Raises:
        InputError: when it is damaged, is no dict, or names anything but what arrays need.
    """
    try:
        fields = _Unpickler(content, place).load()
    except InputError:
        raise
    except Exception as error:
        # A pickle is a program for a little machine, and fails in all the ways in which programs do.
        raise InputError(
            f"expected a whole pickle in {place}, got one that is cut off or damaged: fetch it again"
        ) from error
    if not isinstance(fields, dict):
        raise InputError(f"expected a pickled dict in {place}, got {type(fields).__name__}: fetch it again")
    return {to_text(key): value for key, value in fields.items()}


def to_text(value: object) -> str:
    """A pickled text, or byte string of UTF-8; "" for anything else."""
    return value if isinstance(value, str) else _to_bytes(value).decode("utf-8", "replace")


def to_bytes_array(value: object) -> np.ndarray | None:
    """A pickled array of type uint8 and two dimensions; None for anything else."""
    match value:
        case Inert(
            name="_reconstruct",
            state=(_, (int(rows), int(columns)), Inert(name="dtype", args=(b"u1" | "u1", *_)), fortran, raw),
        ):
            content = _to_bytes(raw)
            if rows > 0 and columns > 0 and rows * columns == len(content):
                pixels = np.frombuffer(content, np.uint8)
                return pixels.reshape((rows, columns), order="F" if fortran else "C")
    return None


def _to_bytes(value: object) -> bytes:
    match value:
        case bytes():
            return value
        case Inert(name="encode", args=(str(text), "latin1")):
            return text.encode("latin1", "replace")
    return b""


@final
class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, place: str) -> None:
        # The strings of Python 2 are bytes, and the elements of its arrays are such strings.
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._place = place

    def find_class(self, module_name: str, global_name: str) -> Inert:
        if (module_name, global_name) not in NAMES:
            raise InputError(
                f"expected a pickle of nothing but arrays and lists in {self._place}, got one that asks for "
                f"{module_name}.{global_name}, which was not run: it is not the true file, fetch it again"
            )
        return Inert(global_name)
