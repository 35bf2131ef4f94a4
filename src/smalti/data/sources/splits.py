"""Group items by the split that their names or rows state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from smalti.data.sources.base import Item
from smalti.data.sources.conventions import SPLIT_NAMES

CORPUS_SPLITS = {**SPLIT_NAMES, "dev": "validation", "eval": "test"}
"""Common split names of speech corpora, in lower case, and the names used here; others are kept."""

Entry = tuple[str | None, Item]
"""An item with its split, or None if it states none."""


def split_name(text: str | None) -> str | None:
    """Return the name used here for a stated split, or None if none is stated."""
    return CORPUS_SPLITS.get(text.lower(), text) if text else None


def by_split(entries: Iterable[Entry]) -> tuple[dict[str, list[Item]], list[str]]:
    """Return the items by split, and the names of items left out because they alone state no split.

    If no item states a split, all of them are the split "all".
    """
    groups: dict[str | None, list[Item]] = {}
    for split, item in entries:
        groups.setdefault(split, []).append(item)
    unsplit = groups.pop(None, [])
    named = {split: items for split, items in groups.items() if split is not None}
    return (named, [item.name for item in unsplit]) if named else ({"all": unsplit}, [])


def sizes_of(items: dict[str, list[Item]], splits: Sequence[str]) -> str:
    """Format the number of items of each split, such as "train 60,000, test 10,000"."""
    return ", ".join(f"{name} {len(items[name]):,}" for name in splits)
