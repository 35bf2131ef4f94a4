"""Parse the actions of a clip, one per frame, from text."""

from __future__ import annotations

import re

from smalti.core.errors import InputError

LONGEST = 1_000_000
"""Largest number of actions in one text, so that a typing error cannot exhaust memory."""
UNKNOWN = "?"
"""Marks a frame whose action is unknown."""


def parse_actions(text: str) -> tuple[str | None, ...]:
    """Parse actions, one per frame: "forward*3 left" is forward three times, then left.

    Args:
        text: names separated by spaces or commas; `name*N` repeats a name N times, and "?" is an unknown
            action.

    Returns:
        The name of each frame's action, or None where it is unknown.

    Raises:
        InputError: if the text has another form, or more than `LONGEST` actions.
    """
    actions: list[str | None] = []
    for part in re.split(r"[\s,]+", text.strip(" ,\t\n")):
        match = re.fullmatch(r"([^*]+)(?:\*([0-9]{1,7}))?", part)
        repeats = int(match[2] or 1) if match else 0
        if match is None or repeats < 1 or len(actions) + repeats > LONGEST:
            raise InputError(
                f"expected actions such as 'forward*10 left*3', received {text[:80]!r}: separate names by "
                "spaces, and repeat one with * and a number"
            )
        actions += [None if match[1] == UNKNOWN else match[1]] * repeats
    return tuple(actions)
