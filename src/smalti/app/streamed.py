"""Training from a stream of items (`data.stream=true`), without a store of decoded ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, final

import numpy as np
import torch

from smalti.app.console import note
from smalti.core.conditioners import check_data_conditions
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.core.models import LatentVariableModel
from smalti.data.ingest import decode_ahead, readable
from smalti.data.loader import Loader
from smalti.data.sources import Source
from smalti.data.sources.base import UnreadableItem
from smalti.data.stream import StreamLoader
from smalti.recipe import Recipe
from smalti.training.checkpoints import RunDirectory

VALIDATION = "validation"
SPLIT = "streamed"
"""Key of a run's config.json: what a resumed run compares with the source."""


@final
class StreamedData:
    """A source to train on, and the items that are held out of it, decoded in memory.

    Held out are the first items of the split `validation`, or, without one, the first items of the training
    split: `validation_fraction` of them, at most `most_held_out`.

    Args:
        source: of the items.
        split: to train on.
        recipe: its settings.
        most_held_out: maximum number of items that are held out.

    Raises:
        InputError: for a recipe that needs stored data.
    """

    action_names: tuple[str, ...] = ()

    def __init__(self, source: Source, split: str, recipe: Recipe, most_held_out: int) -> None:
        if recipe.pretraining is not None:
            raise InputError(
                f"expected a recipe without pretraining for data.stream=true, received {recipe.name}: set "
                "data.stream=false"
            )
        self.source, self.split, self._recipe = source, split, recipe
        files = source.files(split)
        labels = set() if files is None else {files.label(name) for name in files.names}
        self.classes = tuple(sorted(readable(name) for name in labels if name is not None))
        own = VALIDATION in source.splits and split != VALIDATION
        total = source.count(VALIDATION if own else split)
        num = min(most_held_out, round(total * recipe.validation_fraction))
        if recipe.validation_fraction:
            num = max(1, min(most_held_out, total) if own else num)
        self._held_out_split, self._num_held_out = (VALIDATION if own else split), num
        self._begin = 0 if own else num

    @property
    def names_by_column(self) -> dict[str, tuple[str, ...]]:
        """Further columns are not streamed."""
        return {}

    @property
    def condition_sizes(self) -> dict[str, int]:
        """Number of ids of each condition."""
        return {"label": len(self.classes)} if self.classes else {}

    def check(self, run: RunDirectory) -> dict[str, Any]:
        """Return what identifies the data, for the run's config.

        Raises:
            InputError: if a run to resume was begun with other data.
        """
        own = {
            "source": self.source.description,
            "count": self.source.count(self.split),
            "held_out": [self._held_out_split, self._num_held_out],
        }
        before = run.read_config().get(SPLIT) if run.is_begun else own
        if before != own:
            raise InputError(
                f"expected the data that the run in {run.path} was begun with, {before}, received {own}: "
                "restore it, or choose another --out"
            )
        return {SPLIT: own}

    def left_out(self) -> list[str]:
        """Notes on the conditions of the first item that training does not see, one sentence each."""
        item = next(iter(self.source.section(self.split, 0, 1)), None)
        if item is None:
            return []
        names = [*item.columns]
        names += ["label"] if item.label is not None and not self.classes else []
        names += ["actions"] if item.actions is not None else []
        listed = ", ".join(readable(name) for name in names)
        return (
            [f"Streamed training uses only classes given by folders; it ignores: {listed}."] if names else []
        )

    def beginning(self, modality: Modality) -> Iterator[np.ndarray]:
        """Decode the first items of a buffer, from which settings are measured."""
        end = self._begin + self._recipe.data.stream_buffer
        items = self.source.section(self.split, self._begin, end)
        for _, read in decode_ahead(items, modality.decode, modality.readers):
            if not isinstance(read, UnreadableItem):
                yield read

    def contents(self) -> Iterator[Any]:
        """Contents of the first items of a buffer."""
        items = self.source.section(self.split, self._begin, self._begin + self._recipe.data.stream_buffer)
        return (item.content for item in items)

    def training(self, modality: Modality, model: LatentVariableModel, device: torch.device) -> StreamLoader:
        """Open the loader of the training items."""
        check_data_conditions(model, frozenset(self.condition_sizes))
        training = self._recipe.training
        return StreamLoader(
            self.source,
            self.split,
            modality,
            batch_size=training.batch_size,
            buffer=self._recipe.data.stream_buffer,
            seed=training.seed,
            device=device,
            begin=self._begin,
            classes=self.classes,
        )

    def held_out(self, modality: Modality, device: torch.device) -> Loader | None:
        """Decode the items that are held out; None if there are none."""
        items = islice(self.source.section(self._held_out_split, 0, self._num_held_out), self._num_held_out)
        ids = {name: index for index, name in enumerate(self.classes)}
        arrays, labels = [], []
        for item, read in decode_ahead(items, modality.decode, modality.readers):
            if isinstance(read, UnreadableItem):
                note(f"{readable(item.name)} of the held-out items is skipped: {readable(str(read))}")
                continue
            arrays.append(read)
            labels.append(-1 if item.label is None else ids.get(readable(item.label), -1))
        if not arrays:
            return None
        return Loader(
            np.stack(arrays),
            np.array(labels) if self.classes else None,
            batch_size=self._recipe.training.batch_size,
            device=device,
            to_model=modality.to_model,
            to_mask=modality.mask,
        )
