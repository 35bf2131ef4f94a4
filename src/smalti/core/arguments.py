"""Checks of the arguments of public methods: counts, seeds, settings of draws, paths and devices."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from smalti.core.errors import InputError

BATCH = 64
"""Default of `batch_size`: the most items that are encoded, decoded or drawn at once."""


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number of any integer type as an int.

    Args:
        name: of the argument.
        value: what a user passed.
        least: smallest valid value.

    Raises:
        InputError: for another type, or a smaller value.
    """
    number = _whole(value)
    if number is None or number < least:
        raise InputError(
            f"expected {name} as a whole number of at least {least}, received {value!r}: pass an int"
        )
    return number


def check_grid(grid: Any) -> tuple[int, ...]:
    """Return the sizes of a code grid as ints.

    Raises:
        InputError: for anything but a sequence of at least one whole number, each at least 1.
    """
    sizes = [_whole(size) for size in grid] if isinstance(grid, Iterable) else []
    if not sizes or any(size is None or size < 1 for size in sizes):
        raise InputError(
            f"expected a grid of whole numbers of at least 1, received {grid!r}: pass the size of each axis, "
            "such as (8, 8)"
        )
    return tuple(size for size in sizes if size is not None)


def check_seed(seed: Any) -> int | None:
    """Return a seed of torch's range as an int, or None; raise `InputError` for anything else."""
    number = _whole(seed)
    if seed is not None and (number is None or not -(2**63) <= number < 2**64):
        raise InputError(
            f"expected a seed from {-(2**63)} to {2**64 - 1}, or None for a random one, received {seed!r}: "
            "pass a small int"
        )
    return number


def check_draws(temperature: Any, top_k: Any = None, top_p: Any = None) -> None:
    """Check the settings of draws from a distribution over codes.

    Raises:
        InputError: for another type, or a value out of range.
    """
    heat = _real(temperature)
    if heat is None or not 0 <= heat < math.inf:
        raise InputError(
            f"expected a finite temperature of at least 0, received {temperature!r}: "
            "use 1 for the learned distribution, 0 for the most probable code"
        )
    if top_k is not None and (_whole(top_k) or 0) < 1:
        raise InputError(
            f"expected top_k as a whole number of at least 1, received {top_k!r}: omit it to allow all codes"
        )
    share = 1.0 if top_p is None else _real(top_p)
    if share is None or not 0 < share <= 1:
        raise InputError(
            f"expected top_p above 0 and at most 1, received {top_p!r}: omit it to allow all codes"
        )


def as_path(value: Any) -> Path:
    """Return a path, with a leading `~` expanded to a home directory.

    Raises:
        InputError: for anything but a string or a path, the home of an unknown user, or a name that is longer
            than the system allows.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in os.fspath(value):
        raise InputError(f"expected a path, received {value!r}: pass a string or a pathlib.Path")
    try:
        path = Path(value).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
    except RuntimeError:
        raise InputError(
            f"expected a path in the home of a user of this machine, received {value!r}: correct it"
        ) from None
    except OSError as error:
        raise InputError(
            f"expected a path that can be opened, received {value!r} ({error.strerror}): check it"
        ) from None
    return path


def as_device(value: Any) -> torch.device:
    """Return a device of this machine; None selects a GPU if one is available.

    Raises:
        InputError: if torch does not know the device, or the machine has none.
    """
    if value is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(value)
        torch.empty(1, device=device).tolist()  # fails on the meta device, which holds no values
    except (RuntimeError, TypeError, AssertionError, NotImplementedError):
        raise InputError(
            f'expected a device of this machine, received {value!r}: pass "cpu", or None to choose'
        ) from None
    return device


def _real(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return None
