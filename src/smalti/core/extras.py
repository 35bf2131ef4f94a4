"""Packages that only one medium needs: imported when they are first used, and named when they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from smalti.core.errors import InputError


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Around a lazy import: a missing package becomes one sentence that names the extra to install.

    Args:
        extra: name of the optional dependency, such as "video".

    Raises:
        InputError: when the package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"expected the package {error.name}, which is not installed: run pip install 'smalti[{extra}]'"
        ) from error
