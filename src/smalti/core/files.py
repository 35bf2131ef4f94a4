"""Files and directories that appear whole or not at all, and a disk that takes no more told in a sentence.

What is to become `NAME` is written in the directory `.NAME.partial` beside it, and renamed when it is
complete and on the disk. That name is fixed, so that what a killed process left there is overwritten by the
next, not collected; of several writers of one `NAME` one goes on, and the others wait for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from smalti.core.errors import InputError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path near `path`, moved onto it when the block ends well, removed when it does not.

    Raises:
        InputError: when the disk is full or not writable; what stood at `path` before is untouched.
    """
    with _workspace(path) as workspace:
        temporary = workspace / path.name
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


@contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary directory near `path`, renamed to it when the block ends well, removed when it does not.

    Args:
        path: its place, which must be free, or an empty directory.
        replace: whether a directory that is there is to be replaced, with all that is in it.

    Raises:
        InputError: when the disk is full or not writable; what stood at `path` before is untouched.
    """
    with _workspace(path) as workspace:
        temporary = workspace / path.name
        temporary.mkdir()
        yield temporary
        for part in (temporary, *temporary.rglob("*")):
            _sync(part)
        _move(temporary, path, workspace / f"{path.name}.replaced" if replace else None)
        _sync(path.parent)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that no space (or quota) is left, also where a library wraps it in text."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return "No space left on device" in str(error)


@contextmanager
def _workspace(path: Path) -> Iterator[Path]:
    """The directory to write in, empty and ours alone; it is removed with all that is left in it."""
    workspace = path.with_name(f".{path.name}.partial")
    try:
        lock = _locked(workspace)
    except OSError as error:
        _tell(error, path)
        raise
    try:
        _empty(workspace)
        yield workspace
    except BaseException as error:
        # The block may read and write elsewhere too; such errors are for others to explain.
        if _is_within(error, workspace):
            _tell(error, path)
        raise
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
        # Unlocked by name: a forked process holds a copy of the descriptor.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _locked(directory: Path) -> int:
    """Make a directory, if need be, and wait until nobody else has it: its descriptor, which is the lock."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        # Some network file systems have no locks; there, nobody is waited for.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Whoever had it before has removed it, so another directory may bear its name by now.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(directory)):
                return descriptor
        os.close(descriptor)


def _empty(directory: Path) -> None:
    for part in directory.iterdir():
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink()


def _move(temporary: Path, path: Path, aside: Path | None) -> None:
    """Rename, after renaming what is there to `aside`: a reader finds a whole one or none."""
    if aside is None or not path.exists():
        os.rename(temporary, path)
        return
    os.rename(path, aside)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.rename(aside, path)
        raise


def _is_within(error: BaseException, workspace: Path) -> bool:
    """Whether an error is one of writing in the workspace; a full disk is often told without a file name."""
    if not isinstance(error, OSError) or (error.filename is None and error.filename2 is None):
        return is_disk_full(error) and not isinstance(error, InputError)
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
    return any(Path(name).is_relative_to(workspace) for name in names)


def _tell(error: BaseException, path: Path) -> None:
    if is_disk_full(error):
        raise InputError(
            f"the disk is full: {path} could not be written, and nothing that was there before is lost; "
            "free some space and run the same command again"
        ) from error
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): choose a place that you may write to"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
