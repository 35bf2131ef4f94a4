"""Suggestions for misspelt names, in the words of every error message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_LISTED = 20


def suggestion(received: str, known: Iterable[str], listed: str = "there are") -> str:
    """Return "did you mean NAME?" for the most similar name, or else the names that there are.

    Args:
        received: the unknown name.
        known: the names that exist.
        listed: words before their list.
    """
    names = list(known)
    by_key = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(received.casefold(), by_key, n=1)
    if near:
        return f"did you mean {by_key[near[0]]}?"
    if not names:
        return f"{listed} none"
    more = f", and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"{listed} {', '.join(names[:MOST_LISTED])}{more}"
