"""Import of modules with compiled loops, which need numba."""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType


@functools.cache
def compiled_module(name: str) -> ModuleType | None:
    """Import a module that numba compiles, at its first use, because importing numba takes a second.

    Returns None if numba is missing, disabled, or has no writable cache folder; callers then use the plain
    implementation. Except where numba is disabled on purpose, a warning is issued once per module.

    Args:
        name: full name of the module.
    """
    try:
        from numba.core import config

        return None if config.DISABLE_JIT else importlib.import_module(name)  # pyright: ignore[reportAttributeAccessIssue]
    except (ImportError, RuntimeError, OSError) as error:
        warnings.warn(
            f"{name} cannot be compiled ({error}), so the slower plain implementation is used: install "
            "numba, or set NUMBA_CACHE_DIR to a writable folder",
            stacklevel=2,
        )
        return None
