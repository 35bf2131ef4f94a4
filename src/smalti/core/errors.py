"""The exceptions raised for invalid input."""

from __future__ import annotations


class InputError(ValueError):
    """Invalid input. The message is one sentence: what was expected, what was received, what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


class UnknownKind(InputError):
    """A `kind` that no registered config has, because of a typing error or because its plugin is missing.

    Args:
        message: the sentence.
        family: what such a part is called, for example "quantizer".
        kind: the unknown name.
    """

    def __init__(self, message: str, family: str, kind: str) -> None:
        super().__init__(message)
        self.family, self.kind = family, kind
