"""Build stores and loaders from the data source that a user names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch

from smalti.app.console import amount, counting, note
from smalti.app.letters import LettersSource
from smalti.core.conditioners import check_data_conditions
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.core.models import LatentVariableModel
from smalti.core.suggestions import suggestion
from smalti.data.crops import CropLoader
from smalti.data.ingest import build_store
from smalti.data.loader import Loader
from smalti.data.loaders import loader_of
from smalti.data.sources import Item, Source, open_source
from smalti.data.sources.conventions import require_split
from smalti.data.store import Store
from smalti.trained import TrainedModel
from smalti.training.checkpoints import RunDirectory

LISTED = 10
"""Maximum number of unreadable files listed on the screen when the full list is in a file."""


def open_data(text: str, modality: Modality) -> Source:
    """Open the source given as `--data`; "letters" is the demo's generated data, unless it is a folder."""
    if text == "letters" and not Path(text).exists():
        return LettersSource()
    return open_source(text, modality.extensions, modality.pattern)


@final
class PreparedSource(Source):
    """Stands for a source that can no longer be opened, of which a run holds one decoded split.

    Args:
        store: the decoded split.
    """

    def __init__(self, store: Store) -> None:
        self._count = store.count + len(store.skipped)
        self.description = store.source
        self.splits = (store.split,)

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return self._count

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        raise InputError(f"the items of {self.description} are gone: restore the data, or use another source")


def open_run_data(text: str, modality: Modality, run: RunDirectory, directory: Path, quiet: bool) -> Source:
    """Open the source of a run; if that fails, a run that holds its decoded data goes on without it.

    Args:
        text: source given as `--data`.
        modality: of the signals.
        run: a new or an existing run.
        directory: of the decoded data.
        quiet: hide the note.

    Raises:
        InputError: if the source cannot be opened, and the run does not hold its data.
    """
    try:
        return open_data(text, modality)
    except InputError as error:
        if not run.exists or not directory.is_dir():
            raise
        if not run.is_begun and Store.open(directory).protocol != modality.protocol():
            raise
        note(f"The run continues with its own copy of the data: {error}", quiet)
        return PreparedSource(Store.open(directory))


def open_loader(
    store: Store,
    modality: Modality,
    model: LatentVariableModel,
    batch_size: int,
    device: torch.device,
    seed: int = 0,
    indices: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> Loader | CropLoader:
    """Load batches of a store's signals; signals of varying size are cropped, or padded to whole codes.

    Raises:
        InputError: if the store lacks a condition that the model reads.
    """
    check_data_conditions(model, store.condition_names)
    return loader_of(
        store,
        modality,
        batch_size=batch_size,
        device=device,
        seed=seed,
        indices=indices,
        labels=labels,
        strides=model.strides,
    )


def prepare(
    directory: Path,
    source: Source,
    split: str,
    modality: Modality,
    keep: bool = False,
    quiet: bool = False,
    skipped_in: str | None = "data/index.json in the run",
) -> Store:
    """Decode a split into a store, or reuse a store made from the same data with the same settings.

    Unreadable files are skipped and listed.

    Args:
        directory: directory of the store.
        source: the data.
        split: split of the source.
        modality: decodes the items.
        keep: use an existing store even if the source has changed. A resumed run keeps its original data,
            because held-out items could otherwise become training items.
        quiet: hide progress.
        skipped_in: name of the file with the full list of unreadable files, for messages; None if there is
            none, and all are printed.

    Raises:
        InputError: when no item can be decoded.
    """
    if directory.is_dir():
        store = Store.open(directory)
        if keep and source.count(split) != store.count + len(store.skipped):
            note(
                f"The data has changed; the run continues with its original {amount(store.count, 'items')}.",
                quiet,
            )
        same = (store.source, store.split, store.protocol) == (source.description, split, modality.protocol())
        if keep or same:
            return store
    for text in source.notes(split):
        note(text)  # also if quiet: it says what is left out
    files_by_warning: dict[str, list[str]] = {}
    with counting(f"Reading {split}", quiet) as count:
        store = build_store(
            directory,
            source,
            split,
            modality.decode,
            modality.protocol(),
            modality.stored_shape,
            modality.spec.domain.dtype,
            count,
            workers=modality.readers,
            warnings=modality.warnings,
            items_by_warning=files_by_warning,
        )
    for words, names in files_by_warning.items():
        note(
            f"{len(names)} of the {store.count} {modality.plural_name} "
            f"{'is' if len(names) == 1 else 'are'} {words} (and kept), such as {names[0]}.",
            quiet,
        )
    report_skipped(store.skipped, skipped_in)
    return store


def report_skipped(skipped: Sequence[dict[str, str]], listed_in: str | None = None) -> None:
    """List the files that could not be read, even if progress is hidden.

    Args:
        skipped: the files, each as {"name", "reason"}.
        listed_in: the file with the full list, to print only the first few; None prints all.
    """
    if not skipped:
        return
    note(f"{len(skipped)} unreadable file{'s were' if len(skipped) > 1 else ' was'} skipped:")
    shown = skipped[:LISTED] if listed_in else skipped
    for entry in shown:
        note(f"  {entry['name']}: {entry['reason']}")
    if len(shown) < len(skipped):
        note(f"  and {len(skipped) - len(shown)} more (see {listed_in})")


def known_labels(trained: TrainedModel, store: Store) -> np.ndarray:
    """Map labels of the data to the model's label ids; -1 for classes unknown to the model."""
    known = [trained.label_ids.get(name, -1) for name in store.classes]
    return np.array([*known, -1], dtype=np.int64)[store.labels]


def pick_split(source: Source, wanted: str | None, *preferred: str) -> str:
    """Return the requested split, or else the first preferred split that exists.

    Raises:
        InputError: when the requested split does not exist.
    """
    if wanted is None:
        return source.pick(*preferred)
    if wanted not in source.splits:
        raise InputError(
            f"expected a split of {source.description}, received {wanted!r}: "
            f"{suggestion(wanted, source.splits)}"
        )
    return wanted


def training_split(source: Source) -> str:
    """Return the split to train on: `train`, or all items of a source without splits.

    Raises:
        InputError: when the source has splits, but none for training.
    """
    for name in ("train", "all"):
        if name in source.splits:
            return name
    raise InputError(
        f"expected a split to train on in {source.description}, received only {', '.join(source.splits)}: "
        "use a folder without splits, or one with a train split"
    )
