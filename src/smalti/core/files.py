"""Atomic writes of files and directories; a full or read-only disk raises an `InputError`.

The content of `NAME` is written to the directory `.NAME.partial` beside it and renamed once it is complete
and synced to disk. That name is fixed, so the leftovers of a killed process are overwritten by the next
writer and do not accumulate. Concurrent writers of one `NAME` wait for each other.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from smalti.core.errors import InputError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})

MOST_NAME_BYTES = 255
"""Longest name of a file that file systems allow; the temporary name of a longer one is a digest."""


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block succeeds and is removed when it fails.

    Args:
        path: the file.
        durable: whether to sync it to disk, so that it also survives a power failure.

    Raises:
        InputError: if the disk is full or not writable; an existing file at `path` is left unchanged.
    """
    with _workspace(path) as workspace:
        temporary = workspace / path.name
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)


@contextmanager
def atomic_directory(path: Path, *, replace: bool = False, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` when the block succeeds and is removed when it fails.

    Args:
        path: must not exist, unless it is an empty directory or `replace` is set.
        replace: whether to replace an existing directory with all its contents.
        durable: whether to sync it to disk, so that it also survives a power failure.

    Raises:
        InputError: if the disk is full or not writable; an existing directory is left unchanged.
    """
    with _workspace(path) as workspace:
        temporary = workspace / path.name
        temporary.mkdir()
        yield temporary
        for part in (temporary, *temporary.rglob("*")) if durable else ():
            _sync(part)
        _move(temporary, path, workspace / f"{path.name}.replaced" if replace else None)
        if durable:
            _sync(path.parent)


def is_disk_full(error: BaseException) -> bool:
    """Return True if an error means that no space or quota is left, even if a library wrapped it in text."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return "No space left on device" in str(error)


@contextmanager
def _workspace(path: Path) -> Iterator[Path]:
    """Yield an empty directory that no other process writes to; remove it with its contents at the end."""
    name = f".{path.name}.partial"
    if len(os.fsencode(name)) > MOST_NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.partial"
    workspace = path.with_name(name)
    try:
        lock = _locked(workspace)
    except OSError as error:
        _raise_input_error(error, path)
        raise
    try:
        _empty(workspace)
        yield workspace
    except BaseException as error:
        # The block may also read and write elsewhere; such errors pass unchanged.
        if _is_within(error, workspace):
            _raise_input_error(error, path)
        raise
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
        # Unlocked by name: a forked process holds a copy of the descriptor.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _locked(directory: Path) -> int:
    """Create a directory if it does not exist, wait for its lock, and return the locked descriptor."""
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            # The previous holder may remove the directory while mkdir looks at it.
            if os.path.lexists(directory) and not directory.is_dir():
                raise
            continue
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        # Some network file systems have no locks; there, writers do not wait for each other.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # The previous holder removed its directory, so the name may now belong to another one.
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
    """Rename `temporary` to `path` after moving an existing `path` to `aside`; no reader sees a mixture."""
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
    """Return True if an error concerns the workspace; errors of a full disk often lack a file name."""
    if not isinstance(error, OSError) or (error.filename is None and error.filename2 is None):
        return is_disk_full(error) and not isinstance(error, InputError)
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
    return any(Path(name).is_relative_to(workspace) for name in names)


def _raise_input_error(error: BaseException, path: Path) -> None:
    """Raise an `InputError` for a full or read-only disk; return for any other error."""
    if is_disk_full(error):
        raise InputError(
            f"the disk is full: {path} could not be written, and existing files are unchanged; "
            "free some space and run the same command again"
        ) from error
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        raise InputError(
            f"{path} cannot be written, since its name is too long: choose a shorter one"
        ) from error
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): choose a location with write permission"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
