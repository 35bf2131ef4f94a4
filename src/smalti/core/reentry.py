"""A guard for imports that may ask for themselves again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Importing(threading.local):
    """Names that the current thread is importing."""

    def __init__(self) -> None:
        self.names: set[str] = set()


_IMPORTING = _Importing()


@contextmanager
def importing(name: str) -> Iterator[bool]:
    """Guard an import that may ask for itself again; False if this thread is already at it.

    Threads need no lock: Python's import system runs each module once and lets other threads wait for it. A
    lock around imports would deadlock with a thread that imports a plugin itself and then asks for the lock.
    """
    if name in _IMPORTING.names:
        yield False
        return
    _IMPORTING.names.add(name)
    try:
        yield True
    finally:
        _IMPORTING.names.discard(name)
