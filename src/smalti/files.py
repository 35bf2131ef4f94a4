"""Files and directories that appear whole or not at all, and a full disk told in a sentence."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smalti.interfaces import InputError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends well, removed when it does not.

    Raises:
        InputError: when the disk is full; what stood at `path` before is untouched.
    """
    temporary = _beside(path)
    with _removed_on_failure(temporary, path):
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    _sync(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path`, renamed to it when the block ends well (`path` must not exist).

    Raises:
        InputError: when the disk is full; nothing of the directory is left.
    """
    temporary = _beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    with _removed_on_failure(temporary, path):
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        os.rename(temporary, path)
    _sync(path.parent)


def _beside(path: Path) -> Path:
    # One fixed name: what a killed process left behind is overwritten by the next, not collected.
    return path.with_name(f".{path.name}.partial")


@contextmanager
def _removed_on_failure(temporary: Path, path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise InputError(
                f"the disk is full: {path} could not be written, and nothing that was there before is lost; "
                "free some space and run the same command again"
            ) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that no space (or quota) is left, also where a library wraps it in text."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
