"""Modules of compiled loops, where there can be any."""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType


@functools.cache
def compiled_module(name: str) -> ModuleType | None:
    """A module that numba compiles, imported when it is first wanted: that takes a second.

    None where numba is missing, switched off, or finds no place to keep what it compiled; then the plain form
    serves, and a warning says so once.
    """
    try:
        from numba.core import config

        return None if config.DISABLE_JIT else importlib.import_module(name)  # pyright: ignore[reportAttributeAccessIssue]
    except (ImportError, RuntimeError, OSError) as error:
        warnings.warn(
            f"{name} cannot be compiled ({error}), and its slower plain form is taken: install numba, or set "
            "NUMBA_CACHE_DIR to a folder that can be written",
            stacklevel=2,
        )
        return None
