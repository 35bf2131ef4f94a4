"""The one exception that a user's mistake raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class InputError(ValueError):
    """A user's mistake, told in one sentence: what was expected, what came, what to do.

    The command line prints it without a traceback and exits with status 2.
    """
