"""Read JSON from untrusted files: bounded in depth, and only text that can be written again."""

from __future__ import annotations

import json
from typing import Any

MOST_DEPTH = 64
"""Maximum nesting; that of a config is below ten, and Python's own functions recurse."""


def parse_json(content: str | bytes) -> Any:
    """Parse JSON text.

    Raises:
        ValueError: if it is not JSON in UTF-8, is nested too deeply, or has a string that is no text.
    """
    try:
        values = json.loads(content if isinstance(content, str) else content.decode())
    except RecursionError:
        raise ValueError(f"nested more than {MOST_DEPTH} deep") from None
    _check(values)
    return values


def _check(values: Any) -> None:
    level = [values]
    for _ in range(MOST_DEPTH):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, str):
                each.encode()  # raises a kind of ValueError for half a surrogate pair
            elif isinstance(each, dict):
                inner += [*each, *each.values()]
            elif isinstance(each, list):
                inner += each
        if not inner:
            return
        level = inner
    raise ValueError(f"nested more than {MOST_DEPTH} deep")
