"""The exceptions raised for invalid input."""

from __future__ import annotations

MOST_CHARACTERS = 1500
"""Maximum length of a message; values from a file or a user are longer."""


class InputError(ValueError):
    """Invalid input. The message is one sentence: what was expected, what was received, what to do.

    The command line prints the message without a traceback and exits with status 2. Line breaks and control
    characters, which values from files may contain, are escaped, and long messages are shortened.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_one_line(message))


class Diverged(InputError):
    """A loss or gradient that stopped being finite; training again with the same settings does so again."""


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


def _one_line(message: str) -> str:
    if len(message) > MOST_CHARACTERS:
        kept = MOST_CHARACTERS // 2
        message = f"{message[:kept]} ... {message[-kept:]}"
    return printable(message)


def printable(text: str) -> str:
    """Escape line breaks, control characters and others that are not printable.

    Names from files may contain them, and a terminal would obey them.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
