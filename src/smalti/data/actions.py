"""What is done at the frames of a clip, as text."""

from __future__ import annotations

import re

from smalti.core.errors import InputError

LONGEST = 1_000_000
"""Actions of a text at most, so that a slip of the pen does not fill the memory."""
UNKNOWN = "?"
"""Stands for an action that is not known."""


def parse_actions(text: str) -> tuple[str | None, ...]:
    """Actions frame by frame: "forward*3 left" is three times forward, then left; "?" is one not known.

    Args:
        text: names between spaces or commas, with `*` and a number where one is repeated.

    Raises:
        InputError: for a text that says something else.
    """
    actions: list[str | None] = []
    for part in re.split(r"[\s,]+", text.strip(" ,\t\n")):
        match = re.fullmatch(r"([^*]+)(?:\*([0-9]{1,7}))?", part)
        repeats = int(match[2] or 1) if match else 0
        if match is None or repeats < 1 or len(actions) + repeats > LONGEST:
            raise InputError(
                f"expected actions such as 'forward*10 left*3', received {text[:80]!r}: write names, each "
                "with * and a number where it is repeated"
            )
        actions += [None if match[1] == UNKNOWN else match[1]] * repeats
    return tuple(actions)
