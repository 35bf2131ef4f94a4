"""Errors of commands as one sentence and an exit status."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

from smalti.app.usage import usage_sentence
from smalti.core.errors import InputError
from smalti.core.files import is_disk_full

UNUSABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
    errno.ENAMETOOLONG,
)  # fmt: skip
"""Numbers of the errors of a path that the user can correct."""


def user_error(error: Exception, arguments: Sequence[str]) -> tuple[str, int] | None:
    """Return the message and exit status of an error that the user can fix, or None for a bug in smalti.

    Args:
        error: raised by a command.
        arguments: the words of the command line, without the program's name.
    """
    if isinstance(error, InputError):
        return str(error), 2
    if (sentence := usage_sentence(error, arguments)) is not None:
        return sentence, 2
    if type(error).__name__ == "Abort":  # Ctrl-C or the end of the input at a question
        return "stopped", 130
    # A module that imports torch; it is loaded if it has raised the error.
    loop = sys.modules.get("smalti.training.loop")
    if loop is not None and isinstance(error, loop.Interrupted):
        return str(error), 130
    if is_disk_full(error):
        return "the disk is full: free some space and run the same command again", 2
    if isinstance(error, OSError) and error.errno in UNUSABLE and error.filename is not None:
        return f"{error.filename} cannot be used ({error.strerror}): choose another path", 2
    return None
