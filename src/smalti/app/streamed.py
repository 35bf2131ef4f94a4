"""Training from a stream of items (`data.stream=true`), without a store of decoded ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, final

import numpy as np
import torch

from smalti.app.console import note
from smalti.app.data import open_loader
from smalti.core.conditioners import check_data_conditions
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.core.models import LatentVariableModel
from smalti.data.condition_names import ConditionNames
from smalti.data.crops import CropLoader
from smalti.data.in_memory import in_memory
from smalti.data.ingest import checked, decode_ahead, decoded_item, readable
from smalti.data.loader import Loader
from smalti.data.sources import Source
from smalti.data.sources.base import Item, UnreadableItem
from smalti.data.store_layout import Decoded
from smalti.data.stream import StreamLoader
from smalti.encoders.pooling import PoolingEncoder
from smalti.recipe import Recipe
from smalti.training.checkpoints import RunDirectory

VALIDATION = "validation"
SPLIT = "streamed"
"""Key of a run's config.json: what a resumed run compares with the source."""
NAMES = "streamed_names"
"""Key of a run's config.json: the names of the conditions, which a resumed run does not collect again."""


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
        run: to begin or to resume.

    Raises:
        InputError: for a recipe that needs stored data, a run that was begun with other data, or columns that
            differ between items.
    """

    def __init__(
        self, source: Source, split: str, recipe: Recipe, most_held_out: int, run: RunDirectory
    ) -> None:
        if recipe.pretraining is not None:
            raise InputError(
                f"expected a recipe without pretraining for data.stream=true, received {recipe.name}: set "
                "data.stream=false"
            )
        self.source, self.split, self._recipe = source, split, recipe
        own = VALIDATION in source.splits and split != VALIDATION
        total = source.count(VALIDATION if own else split)
        num = min(most_held_out, round(total * recipe.validation_fraction))
        if recipe.validation_fraction:
            num = max(1, min(most_held_out, total) if own else num)
        self._held_out_split, self._num_held_out = (VALIDATION if own else split), num
        self._begin = 0 if own else num
        before = run.read_config() if run.is_begun else {}
        self.identity = {
            "source": source.description,
            "count": source.count(split),
            "held_out": [self._held_out_split, num],
        }
        """Description and number of items of the data, and the items that are held out."""
        self._num_unknown = 0
        if before and before.get(SPLIT) != self.identity:
            raise InputError(
                f"expected the data that the run in {run.path} was begun with, {before.get(SPLIT)}, received "
                f"{self.identity}: restore it, or choose another --out"
            )
        known = before.get(NAMES)
        self.names = (
            ConditionNames.of_split(source, split) if known is None else ConditionNames.model_validate(known)
        )
        """Conditions of the items."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by id."""
        return self.names.classes

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the actions by id."""
        return self.names.actions

    @property
    def names_by_column(self) -> dict[str, tuple[str, ...]]:
        """Names of the ids of each column of ids."""
        return self.names.names_by_column

    @property
    def config(self) -> dict[str, Any]:
        """Entries of a run's config.json that a resumed run reads."""
        return {SPLIT: self.identity, NAMES: self.names.model_dump(mode="json")}

    def beginning(self, modality: Modality) -> Iterator[np.ndarray]:
        """Decode the first items of a buffer, from which settings are measured."""
        end = self._begin + self._recipe.data.stream_buffer
        items = self.source.section(self.split, self._begin, end)
        return (item.array for item in _decoded(items, modality))

    def training(self, modality: Modality, model: LatentVariableModel, device: torch.device) -> StreamLoader:
        """Open the loader of the training items.

        Raises:
            InputError: if the model reads a condition that the items lack, or needs stored data.
        """
        check_data_conditions(model, self.names.given)
        if isinstance(model.encoder, PoolingEncoder):
            raise InputError(
                "expected an encoder without statistics of all items of a label for data.stream=true, "
                f"received one with them in {self._recipe.name}: set data.stream=false"
            )
        training, data = self._recipe.training, self._recipe.data
        return StreamLoader(
            self.source,
            self.split,
            modality,
            batch_size=training.batch_size,
            buffer=data.stream_buffer,
            crops=data.stream_crops,
            seed=training.seed,
            device=device,
            begin=self._begin,
            names=self.names,
        )

    def held_out(
        self, modality: Modality, model: LatentVariableModel, device: torch.device
    ) -> Loader | CropLoader | None:
        """Decode the items that are held out; None if there are none."""
        items = islice(self.source.section(self._held_out_split, 0, self._num_held_out), self._num_held_out)
        stored = modality.for_training()
        decoded = [self._known(item) for item in _decoded(items, stored, note_skipped=True)]
        if self._num_unknown:
            note(
                f"{self._num_unknown} of the {len(decoded)} held-out items have classes, actions or columns "
                "that no training item has; they count as not given."
            )
        if not decoded:
            return None
        store = in_memory(decoded, stored, self.names)
        return open_loader(store, modality, model, self._recipe.training.batch_size, device)

    def _known(self, item: Decoded) -> Decoded:
        """The item with conditions that no training item has as not given."""
        specs = {spec.name: spec for spec in self.names.columns}
        columns = {
            name: _known_names(value, specs[name].names) if specs[name].is_ids else value
            for name, value in item.columns.items()
            if name in specs
        }
        changed = item._replace(
            label=_known_names(item.label, self.classes),
            actions=_known_names(item.actions, self.action_names) if self.action_names else None,
            columns={name: value for name, value in columns.items() if value is not None},
        )
        self._num_unknown += (
            changed.label is not item.label
            or changed.actions is not item.actions
            or len(changed.columns) < len(item.columns)
            or any(changed.columns[name] is not value for name, value in item.columns.items())
        )
        return changed


def _known_names(value: Any, known: Sequence[str]) -> Any:
    """A name, or the names of frames, with those that are not known as None; the same object if all are."""
    if value is None or isinstance(value, str | np.ndarray):
        return value if not isinstance(value, str) or value in known else None
    ids = frozenset(known)
    kept = tuple(name if name in ids else None for name in value)
    return value if kept == tuple(value) else kept


def _decoded(items: Iterator[Item], modality: Modality, note_skipped: bool = False) -> Iterator[Decoded]:
    """Yield the items that can be read."""
    for item, read in decode_ahead(items, modality.decode, modality.readers):
        result = checked(item, read)
        if not isinstance(result, UnreadableItem):
            yield decoded_item(item, result)
        elif note_skipped:
            reason = readable(str(result))
            note(f"{readable(item.name)} of the held-out items is skipped: {reason}")
