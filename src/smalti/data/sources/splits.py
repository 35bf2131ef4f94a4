"""Items whose names or rows state the split that they are of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from smalti.data.sources.base import Item
from smalti.data.sources.conventions import SPLIT_NAMES

CORPUS_SPLITS = {**SPLIT_NAMES, "dev": "validation", "eval": "test"}
"""What a split of a corpus of speech is called -> what it is called here; other names are kept."""

Entry = tuple[str | None, Item]
"""An item with its split, which None leaves open."""


def split_name(text: str | None) -> str | None:
    """What a split that is stated is called here."""
    return CORPUS_SPLITS.get(text.lower(), text) if text else None


def by_split(entries: Iterable[Entry]) -> tuple[dict[str, list[Item]], list[str]]:
    """Items by split, and the names of those that state none where others do."""
    groups: dict[str | None, list[Item]] = {}
    for split, item in entries:
        groups.setdefault(split, []).append(item)
    unsplit = groups.pop(None, [])
    named = {split: items for split, items in groups.items() if split is not None}
    return (named, [item.name for item in unsplit]) if named else ({"all": unsplit}, [])


def sizes_of(items: dict[str, list[Item]], splits: Sequence[str]) -> str:
    """Number of items of each split, in words."""
    return ", ".join(f"{name} {len(items[name]):,}" for name in splits)
