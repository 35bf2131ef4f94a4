"""From what a user calls the data to stores and loaders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smalti.data.sources import Source, open_source
from smalti.data.store import Store, build_store
from smalti.interfaces import InputError
from smalti.modalities.image import EXTENSIONS, ImageModality
from smalti.verbs.console import counting, note

LISTED = 10
"""Unreadable files that are named on the screen; all of them are in the store's index."""


def open_data(text: str) -> Source:
    """The source that `--data` names."""
    return open_source(text, EXTENSIONS)


def prepare(
    directory: Path,
    source: Source,
    split: str,
    modality: ImageModality,
    classes: Sequence[str] | None = None,
    quiet: bool = False,
) -> Store:
    """Decode a split into a store, or take the one that is there, made from the same data in the same way.

    Raises:
        InputError: when nothing can be decoded.
    """
    if directory.is_dir():
        store = Store.open(directory)
        if (store.source, store.split, store.protocol) == (source.description, split, modality.protocol()):
            return store
    for text in source.notes(split):
        note(text, quiet)
    with counting(f"Reading {split}", quiet) as count:
        store = build_store(
            directory, source, split, modality.decode, modality.protocol(), modality.spec, count, classes=classes
        )
    report_skipped(store.skipped, quiet)
    return store


def report_skipped(skipped: Sequence[dict[str, str]], quiet: bool = False) -> None:
    """Name the files that could not be read."""
    if not skipped:
        return
    note(f"{len(skipped)} unreadable files were skipped:", quiet)
    for entry in skipped[:LISTED]:
        note(f"  {entry['name']}: {entry['reason']}", quiet)
    if len(skipped) > LISTED:
        note(f"  and {len(skipped) - LISTED} more (see data/index.json in the run)", quiet)


def pick_split(source: Source, wanted: str | None, *preferred: str) -> str:
    """The split that was asked for, or else the first preferred one that there is.

    Raises:
        InputError: when the one asked for does not exist.
    """
    if wanted is None:
        return source.pick(*preferred)
    if wanted not in source.splits:
        raise InputError(
            f"expected a split of {source.description}, received {wanted!r}: there are {', '.join(source.splits)}"
        )
    return wanted
