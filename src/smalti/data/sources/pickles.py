"""Pickles of arrays and lists, read without running anything that they ask for."""

from __future__ import annotations

import io
import pickle
import pickletools
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from smalti.core.errors import InputError

NAMES = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""What the pickle of an array names or, when Python 3 wrote it in an old protocol, that of a byte string."""

MOST_STEPS = 2_000_000
"""More opcodes than a pickle of CIFAR-100 has in any protocol; each can take some hundred bytes of memory."""

OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}


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
        _check_steps(content)
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


def _check_steps(content: bytes) -> None:
    """Go through the opcodes without following them; whatever is raised says that they are damaged.

    The unpickler makes room for as many objects as the largest index it is told to keep one at, and for as
    many bytes as a length says; no pickler skips indices, so there are never more of them than opcodes.
    """
    stream = io.BytesIO(content)
    frame_end = 0
    for _ in range(MOST_STEPS):
        start = stream.tell()
        opcode = OPCODES[stream.read(1).decode("latin-1")]
        arg = None
        if opcode.name == "STRING":
            # Its reader, which `pickletools.genops` uses, knows ASCII only, and Python 2 wrote pixels so.
            stream.readline()
        elif opcode.arg is not None:
            arg = opcode.arg.reader(stream)
        is_frame = opcode.name == "FRAME"
        end = stream.tell() + (arg if is_frame and arg else 0)
        # The unpickler drops what is left of a frame that ends within an opcode, and sees other opcodes then.
        if start < frame_end < end:
            raise ValueError(f"frame that ends within {opcode.name}")
        if is_frame:
            frame_end = max(frame_end, end)
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not (
            arg is not None and 0 <= arg < MOST_STEPS
        ):
            raise ValueError(f"index {arg} of {opcode.name}")
        if opcode.name == "STOP":
            return
    raise ValueError(f"more than {MOST_STEPS:,} opcodes")


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
