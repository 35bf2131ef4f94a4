"""Suggestions for misspelt names, in the words of every error message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_LISTED = 20
LEAST_SIMILAR = 0.75
"""Least similarity (`difflib`) of a suggested name: one wrong letter of four, but not `cpu` for `gpu`."""


def suggestion(received: str, known: Iterable[str], listed: str = "there are") -> str:
    """Return "did you mean NAME?" for the most similar name, or else the names that there are.

    A name that alone begins with the received one is similar, too: `evaluate` for `eval`.

    Args:
        received: the unknown name.
        known: the names that exist.
        listed: words before their list.
    """
    names = list(known)
    by_key = {name.casefold(): name for name in names}
    key = received.casefold()
    near = difflib.get_close_matches(key, by_key, n=1, cutoff=LEAST_SIMILAR)
    longer = [name for name in by_key if key and name.startswith(key)]
    if near or len(longer) == 1:
        return f"did you mean {by_key[(near or longer)[0]]}?"
    if not names:
        return f"{listed} none"
    if len(names) == 1 and listed == "there are":
        return f"there is only {names[0]}"
    more = f", and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"{listed} {', '.join(names[:MOST_LISTED])}{more}"
