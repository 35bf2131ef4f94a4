"""The exception raised for invalid input."""

from __future__ import annotations


class InputError(ValueError):
    """Invalid input. The message is one sentence: what was expected, what was received, what to do.

    The command line prints the message without a traceback and exits with status 2.
    """
