"""Common names of splits and columns in published data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from smalti.core.errors import InputError
from smalti.data.sources.walk import kind_of

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""Common split names, in lower case, and the names used here."""

SPLIT_ORDER = ("train", "validation", "test")

SIGNAL_COLUMNS = ("image", "img", "picture", "audio")
"""Columns that hold the signal, most likely first."""

LABEL_COLUMNS = ("label", "labels", "class", "fine_label")
"""Columns that hold the class, most likely first."""


def ordered_splits(splits: Iterable[str]) -> tuple[str, ...]:
    """Return the split names in the order train, validation, test, then any others by name."""
    names = set(splits)
    known = [name for name in SPLIT_ORDER if name in names]
    return (*known, *sorted(names.difference(known)))


def require_split(split: str, splits: Sequence[str], description: str) -> None:
    """Check that a source has this split.

    Raises:
        InputError: if it does not.
    """
    if split not in splits:
        raise InputError(f"expected one of the splits {', '.join(splits)} of {description}, got {split!r}")


def preferred_first(names: Iterable[str], preferred: Sequence[str]) -> list[str]:
    """Return the names with the preferred ones first, in their order, and the others in the given order."""
    names = list(names)
    return sorted(names, key=lambda name: preferred.index(name) if name in preferred else len(preferred))


def class_name(label: object, names: Sequence[str] | None = None) -> str | None:
    """Return the class name of a row.

    Args:
        label: value of the label column: an index, a name, or None.
        names: class names by index, if the data set has them.

    Returns:
        The name; the index as text if it has no name; None if the row is unlabelled (None, or the -1 of
        unlabelled test splits).
    """
    if label is None or label == -1:
        return None
    if isinstance(label, int) and names is not None and 0 <= label < len(names):
        return names[label]
    return str(label)


def signal_content(cell: object, folder: Path) -> Path | bytes:
    """Return the content of a row's signal: bytes, or the path of a file.

    A row without content gives empty bytes, which no decoder can read, so that it is skipped and counted as
    unreadable. So does a path that leads out of the folder: rows are untrusted and must not choose which of
    the user's files are read.

    Args:
        cell: value of the signal column: bytes, or a dict of `bytes` and `path` as Hugging Face writes it.
        folder: folder that paths are relative to and must stay in.
    """
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, dict) and cell.get("bytes") is not None:
        return cell["bytes"]
    if isinstance(cell, dict) and cell.get("path") and _leads_inside(cell["path"], folder):
        path = folder / cell["path"]
        # A pipe or a device may never end.
        return b"" if kind_of(path) == "special" else path
    return b""


def _leads_inside(path: str, folder: Path) -> bool:
    """Return True if a path, with `..` and symbolic links resolved, lies below a folder."""
    try:
        return (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        # A loop of links, or an invalid file name.
        return False
