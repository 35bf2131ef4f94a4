"""The names that corpora in the wild give to their splits and columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from smalti.core.errors import InputError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What a split is called in the wild -> what it is called here."""

SPLIT_ORDER = ("train", "validation", "test")

SIGNAL_COLUMNS = ("image", "img", "picture", "audio")
"""Columns that hold the signal, most likely first."""

LABEL_COLUMNS = ("label", "labels", "class", "fine_label")
"""Columns that hold the class, most likely first."""


def ordered_splits(splits: Iterable[str]) -> tuple[str, ...]:
    """The split names in the order train, validation, test, then any others by name."""
    names = set(splits)
    known = [name for name in SPLIT_ORDER if name in names]
    return (*known, *sorted(names.difference(known)))


def require_split(split: str, splits: Sequence[str], description: str) -> None:
    """Check that a corpus has this split.

    Raises:
        InputError: when it has not.
    """
    if split not in splits:
        raise InputError(f"expected one of the splits {', '.join(splits)} of {description}, got {split!r}")


def preferred_first(names: Iterable[str], preferred: Sequence[str]) -> list[str]:
    """The names, preferred ones first and in their order, the others as they came."""
    names = list(names)
    return sorted(names, key=lambda name: preferred.index(name) if name in preferred else len(preferred))


def class_name(label: object, names: Sequence[str] | None = None) -> str | None:
    """The class of a row as a name.

    Args:
        label: what the row holds: an index, a name, or None.
        names: the name of each index, where the corpus states them.

    Returns:
        The name; the index as text where it has no name; None where the class is not given (None, or the
        -1 that unlabelled test splits hold).
    """
    if label is None or label == -1:
        return None
    if isinstance(label, int) and names is not None and 0 <= label < len(names):
        return names[label]
    return str(label)


def signal_content(cell: object, folder: Path) -> Path | bytes:
    """The content of a row's signal: raw bytes, or a dict of `bytes` and `path` as Hugging Face writes it.

    A row without content gives no bytes, which no decoder can read: it is then skipped and counted as
    unreadable, like any other damaged item. So does a path that leads out of the folder: rows come from
    strangers, who are not to choose which of the user's files are read.

    Args:
        cell: what the row holds.
        folder: where a path is looked for, and must lie.
    """
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, dict) and cell.get("bytes") is not None:
        return cell["bytes"]
    if isinstance(cell, dict) and cell.get("path") and _leads_inside(cell["path"], folder):
        return folder / cell["path"]
    return b""


def _leads_inside(path: str, folder: Path) -> bool:
    """Whether a path lies below a folder after `..` and symbolic links are followed."""
    try:
        return (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        # A loop of links, or a name that no file can have.
        return False
