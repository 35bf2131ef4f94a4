"""Read pickles of arrays and lists without executing anything from them."""

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
"""Globals that pickles of arrays refer to, or of byte strings if Python 3 wrote them in an old protocol."""

MOST_STEPS = 2_000_000
"""Limit of opcodes, each of which can take some hundred bytes; CIFAR-100 has fewer in every protocol."""

OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}


@final
@dataclass(eq=False)
class Inert:
    """Stand-in for every global of a pickle: records calls and state, and executes nothing.

    No code runs while a pickle is read, not even numpy's; the recorded values are converted afterwards.
    """

    name: str
    args: tuple[object, ...] = ()
    state: object = field(default=None, init=False)

    def __call__(self, *args: object) -> Inert:
        return Inert(self.name, args)

    def __setstate__(self, state: object) -> None:
        self.state = state


def read_pickle(content: bytes, place: str) -> dict[str, Any]:
    """Read a pickled dict with keys converted to text; convert values by `to_bytes_array` and `to_text`.

    Args:
        content: the pickle, in any protocol of Python 2 or 3.
        place: name of the file in error messages.

    Raises:
        InputError: if the pickle is damaged, is not a dict, or names any global but those of arrays.
    """
    try:
        _check_steps(content)
        fields = _Unpickler(content, place).load()
    except InputError:
        raise
    except Exception as error:
        # The unpickler runs a program from the file, so damage can raise an exception of any type.
        raise InputError(
            f"expected a complete pickle in {place}, got one that is truncated or damaged: download it again"
        ) from error
    if not isinstance(fields, dict):
        raise InputError(
            f"expected a pickled dict in {place}, got {type(fields).__name__}: download it again"
        )
    return {to_text(key): value for key, value in fields.items()}


def to_text(value: object) -> str:
    """Convert a pickled text or UTF-8 byte string to text; anything else to ""."""
    return value if isinstance(value, str) else _to_bytes(value).decode("utf-8", "replace")


def to_bytes_array(value: object) -> np.ndarray | None:
    """Convert a pickled two-dimensional uint8 array; return None for anything else."""
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
    """Check the opcodes without executing them; any exception means that the pickle is damaged.

    The unpickler allocates memory for the largest memo index and for every stated length. Picklers do not
    skip indices, so an index of `MOST_STEPS` or more is refused.

    Raises:
        ValueError: for an opcode that could exhaust memory, or more than `MOST_STEPS` opcodes.
    """
    stream = io.BytesIO(content)
    frame_end = 0
    for _ in range(MOST_STEPS):
        start = stream.tell()
        opcode = OPCODES[stream.read(1).decode("latin-1")]
        arg = None
        if opcode.name == "STRING":
            # The reader of `pickletools` accepts only ASCII, but Python 2 wrote pixels in this opcode.
            stream.readline()
        elif opcode.arg is not None:
            arg = opcode.arg.reader(stream)
        is_frame = opcode.name == "FRAME"
        end = stream.tell() + (arg if is_frame and arg else 0)
        # The unpickler drops the rest of a frame that ends within an opcode, and would then read other
        # opcodes than were checked here.
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
        # Strings of Python 2 are bytes, and so are the contents of its arrays.
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._place = place

    def find_class(self, module_name: str, global_name: str) -> Inert:
        if (module_name, global_name) not in NAMES:
            raise InputError(
                f"expected a pickle of only arrays and lists in {self._place}, got one that refers to "
                f"{module_name}.{global_name}, which was not run: it is not the original file, download it "
                "again"
            )
        return Inert(global_name)
