"""Optional dependencies: packages that only some features need, imported at their first use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from smalti.core.errors import InputError


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Wrap a lazy import, so that the error for a missing package names the extra to install.

    Args:
        extra: name of the extra, such as "video".

    Raises:
        InputError: if the package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"expected the package {error.name}, which is not installed: run pip install 'smalti[{extra}]'"
        ) from error
