"""From what a user calls the data to stores and loaders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smalti.data.ingest import build_store
from smalti.data.sources import Source, open_source
from smalti.data.store import Store
from smalti.interfaces import InputError
from smalti.modalities.image import ImageModality
from smalti.modalities.pictures import EXTENSIONS
from smalti.verbs.console import counting, note

LISTED = 10
"""Unreadable files that are named on the screen where all of them are written down elsewhere."""


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
    skipped_in: str = "data/index.json in the run",
) -> Store:
    """Decode a split into a store, or take the one that is there, made from the same data in the same way.

    Unreadable files are named; `skipped_in` says where all of them will be listed.

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
            directory,
            source,
            split,
            modality.decode,
            modality.protocol(),
            modality.spec,
            count,
            classes=classes,
        )
    report_skipped(store.skipped, skipped_in)
    return store


def report_skipped(skipped: Sequence[dict[str, str]], listed_in: str | None = None) -> None:
    """Name the files that could not be read, also to users who want no progress shown.

    Args:
        skipped: the files, as {"name", "reason"}.
        listed_in: where all of them are listed, so that a few will do here; None names them all.
    """
    if not skipped:
        return
    note(f"{len(skipped)} unreadable file{'s were' if len(skipped) > 1 else ' was'} skipped:")
    shown = skipped[:LISTED] if listed_in else skipped
    for entry in shown:
        note(f"  {entry['name']}: {entry['reason']}")
    if len(shown) < len(skipped):
        note(f"  and {len(skipped) - len(shown)} more (see {listed_in})")


def pick_split(source: Source, wanted: str | None, *preferred: str) -> str:
    """The split that was asked for, or else the first preferred one that there is.

    Raises:
        InputError: when the one asked for does not exist.
    """
    if wanted is None:
        return source.pick(*preferred)
    if wanted not in source.splits:
        raise InputError(
            f"expected a split of {source.description}, received {wanted!r}: "
            f"there are {', '.join(source.splits)}"
        )
    return wanted
