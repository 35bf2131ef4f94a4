"""The items that a run trains and validates on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from smalti.app.data import open_loader
from smalti.core.conditions import Batch
from smalti.core.modality import Modality
from smalti.core.models import LatentVariableModel
from smalti.data.crops import CropLoader
from smalti.data.loader import Loader, evenly_spaced, split_indices
from smalti.data.store import Store
from smalti.data.stream import StreamLoader
from smalti.encoders.pooling import item_statistics, remember_statistics
from smalti.recipe import Recipe
from smalti.training.engine import Engine

WATCHED_ITEMS = 512
"""Maximum number of held-out items evaluated during training; `evaluate` uses all of them."""


@dataclass(frozen=True)
class TrainingItems:
    """Training items and validation items, each with their indices in the store."""

    training: Loader | CropLoader | StreamLoader
    held_out: Loader | CropLoader | None
    training_indices: np.ndarray
    held_out_indices: np.ndarray

    @classmethod
    def of(
        cls, store: Store, recipe: Recipe, engine: Engine, modality: Modality, model: LatentVariableModel
    ) -> TrainingItems:
        training, held_out = split_indices(store.count, recipe.validation_fraction)
        watched = evenly_spaced(held_out, WATCHED_ITEMS) if len(held_out) else held_out
        size, seed = recipe.training.batch_size, recipe.training.seed

        def loader(indices: np.ndarray) -> Loader | CropLoader:
            return open_loader(store, modality, model, size, engine.device, seed, indices)

        return cls(loader(training), loader(watched) if len(watched) else None, training, watched)

    def give_statistics(
        self, model: LatentVariableModel, modality: Modality, store: Store, is_frozen: bool
    ) -> None:
        """Store the label statistics of the training items in an encoder that needs them, and attach them.

        Args:
            model: with such an encoder, or another one.
            modality: of the signals.
            store: all items.
            is_frozen: keep the statistics that the encoder has.
        """
        if not is_frozen:
            remember_statistics(model, modality, store, self.training_indices)
        labels = {name: label for label, name in enumerate(store.classes)}
        statistics = item_statistics(model, modality, store, labels)
        if statistics is not None:
            assert not isinstance(self.training, StreamLoader)
            self.training.voices = statistics[self.training_indices]
            if self.held_out is not None:
                self.held_out.voices = statistics[self.held_out_indices]

    def watched(self) -> Iterator[Batch]:
        assert self.held_out is not None
        return self.held_out.watch()
