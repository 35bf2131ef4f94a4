"""A store of decoded items that are held in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.data.collected import Collected
from smalti.data.column_files import ColumnCollector
from smalti.data.condition_names import ConditionNames
from smalti.data.store import Store
from smalti.data.store_layout import Decoded


def in_memory(items: Iterable[Decoded], modality: Modality, names: ConditionNames) -> Store:
    """Hold items in memory as a store, without files.

    Args:
        items: taken one by one.
        modality: that decoded them.
        names: of the ids of their conditions.

    Raises:
        InputError: if there are no items, one has another shape or type, or conditions that are not among the
            names or do not fit its frames.
    """
    shape, dtype = modality.stored_shape, modality.spec.domain.dtype
    columns = ColumnCollector(specs=names.columns)
    collected = Collected(shape, dtype, names.classes, names.actions, columns)
    signals = [collected.append(item) for item in items]
    if not signals:
        raise InputError("expected items to hold in memory, received none: check the data")
    classes, labels = collected.labels()
    action_names, actions = collected.actions()
    lengths = collected.lengths()
    return Store(
        directory=Path(),
        signals=np.stack(signals) if lengths is None else _joined(signals, lengths, collected.sizes()),
        labels=labels,
        classes=classes,
        skipped=[],
        source="memory",
        split="all",
        protocol={},
        lengths=lengths,
        action_names=action_names,
        actions=actions,
        columns=columns.columns(),
        sizes=collected.sizes(),
    )


def _joined(signals: list[np.ndarray], lengths: np.ndarray, sizes: np.ndarray | None) -> np.ndarray:
    """Join ragged items, one row for each position along the sides in which they differ."""
    num_open = 1 if sizes is None else sizes.shape[1]
    rows = [
        signal.reshape(length, *signal.shape[num_open:])
        for signal, length in zip(signals, lengths.tolist(), strict=True)
    ]
    return np.concatenate(rows)
