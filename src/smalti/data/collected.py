"""Labels, actions, columns and sizes of the items of a store, collected item by item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import numpy as np
from jaxtyping import Int64

from smalti.core.errors import InputError
from smalti.data.column_files import ColumnCollector
from smalti.data.store_layout import Actions, Decoded, Shape, num_open, some


@final
class Collected:
    """Labels, actions, columns and sizes of the items of a store.

    Args:
        shape: of one item; the first sides after the channels are None if items differ in them.
        dtype: of the items.
        classes: class names by id; None numbers the names that occur, sorted.
        actions: their names by id; None numbers those that occur, sorted.
        columns: without items.
    """

    def __init__(
        self,
        shape: Shape,
        dtype: np.dtype,
        classes: Sequence[str] | None,
        actions: Sequence[str] | None,
        columns: ColumnCollector,
    ) -> None:
        self.shape, self.dtype, self.columns = shape, dtype, columns
        self._num_open = num_open(shape)
        self._classes, self._known = classes, None if classes is None else frozenset(classes)
        self._action_names = actions
        self._labels: list[str | None] = []
        self._actions: list[Actions | None] = []
        self._sizes: list[tuple[int, ...]] = []

    @property
    def count(self) -> int:
        """Number of items."""
        return len(self._labels)

    def append(self, item: Decoded) -> np.ndarray:
        """Add an item, and return its signal as it is stored: contiguous, the sides that differ first.

        Raises:
            InputError: if the item has another shape or type, an unknown class, or actions or columns that do
                not fit its frames.
        """
        name, array, label, actions, columns = item
        if not self._fits(array) or array.dtype != self.dtype:
            raise InputError(
                f"expected items of shape {self.shape} and type {self.dtype}, received "
                f"{array.shape} and {array.dtype} for {name}: bring all items to one shape and type"
            )
        if label is not None and self._known is not None and label not in self._known:
            raise InputError(
                f"expected one of the {len(self._known)} known classes ({some(self._classes or ())}), "
                f'received "{label}" for {name}: remove or rename that class, or train with it'
            )
        if actions is not None and (self._num_open != 1 or len(actions) != array.shape[1]):
            raise InputError(
                f"expected an action for each frame of a clip, received {len(actions)} actions for {name} of "
                f"shape {array.shape}: correct the actions, or leave them out"
            )
        self.columns.append(name, columns, array.shape[1] if array.ndim > 1 else None)
        if self._num_open:
            self._sizes.append(array.shape[1 : 1 + self._num_open])
            array = np.moveaxis(array, 0, self._num_open)
        self._labels.append(label)
        self._actions.append(actions)
        return np.ascontiguousarray(array)

    def labels(self) -> tuple[tuple[str, ...], Int64[np.ndarray, " n"]]:
        """Class names, and the id of each item's class, -1 for none."""
        given = {label for label in self._labels if label is not None}
        classes = tuple(sorted(given) if self._classes is None else self._classes)
        ids: dict[str | None, int] = {None: -1, **{name: number for number, name in enumerate(classes)}}
        return classes, np.fromiter((ids[label] for label in self._labels), np.int64, self.count)

    def actions(self) -> tuple[tuple[str, ...], Int64[np.ndarray, " frames"] | None]:
        """Names of the actions, and the id at each frame of all items, -1 for none; None without actions.

        Raises:
            InputError: for an action that is not among the given names.
        """
        given = {name for actions in self._actions for name in actions or () if name is not None}
        names = tuple(sorted(given) if self._action_names is None else self._action_names)
        unknown = sorted(given.difference(names))
        if unknown:
            raise InputError(
                f"expected one of the {len(names)} known actions ({some(names)}), received "
                f'"{unknown[0]}": remove or rename that action, or train with it'
            )
        if not names:
            return (), None
        ids: dict[str | None, int] = {None: -1, **{name: number for number, name in enumerate(names)}}
        rows = [
            np.full(length, -1, np.int64)
            if actions is None
            else np.array([ids[name] for name in actions], np.int64)
            for actions, (length,) in zip(self._actions, self._sizes, strict=True)
        ]
        return names, np.concatenate(rows)

    def lengths(self) -> Int64[np.ndarray, " n"] | None:
        """Rows of each item; None if items do not differ in size."""
        return np.array([math.prod(size) for size in self._sizes], np.int64) if self._num_open else None

    def sizes(self) -> Int64[np.ndarray, "n sides"] | None:
        """Sides in which items differ; None if there are fewer than two."""
        return np.array(self._sizes, np.int64) if self._num_open > 1 else None

    def _fits(self, array: np.ndarray) -> bool:
        return array.ndim == len(self.shape) and all(
            given > 0 if side is None else given == side
            for given, side in zip(array.shape, self.shape, strict=True)
        )
