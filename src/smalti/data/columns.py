"""Named columns of a corpus: further conditions of its items, from a source through a store to a batch.

A column has one value per item or one per frame (position along the first axis after the channels). Values
are names, stored as ids, or vectors of floats. In a batch, each column is a condition of the same name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Literal, final

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor

from smalti.core.conditions import KINDS, ConditionValue, PerFrame, PerItem
from smalti.core.config import Configuration
from smalti.core.errors import InputError

ColumnValue = str | Sequence[str | None] | np.ndarray
"""Value of a column for one item: a name; the names of its frames, None where unknown; a float vector `(V,)`;
or the float vectors of its frames `(F, V)`."""

Columns = Mapping[str, ColumnValue]
"""Values of an item by the name of the column."""

NO_COLUMNS: Columns = MappingProxyType({})

NAME = r"[a-z][a-z0-9_]*"
"""Names of columns: they become part of file names."""

RESERVED = frozenset({"label", "action", "voice", "local"})
"""Names of conditions that come from elsewhere: the first two from fields of an item, the others from the
model."""

MOST = np.finfo(np.float32).max
"""Largest value of a vector."""

FILE_NAME = re.compile(rf"column-{NAME}\.bin")
"""File of a column in a store."""


class ColumnSpec(Configuration):
    """Description of a column in the index of a store.

    Attributes:
        name: of the condition.
        kind: "item" or "frame", which has one value each.
        dtype: "int64" for ids, "float32" for vectors.
        width: length of the vectors; 0 for ids.
        names: names of the ids.
    """

    name: Annotated[str, Field(pattern=f"^{NAME}$", max_length=64)]
    kind: Literal["item", "frame"]
    dtype: Literal["int64", "float32"]
    width: NonNegativeInt = 0
    names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_of_ids_or_vectors(self) -> ColumnSpec:
        if self.is_ids != (self.width == 0) or (self.names and not self.is_ids) or self.name in RESERVED:
            raise ValueError(f"expected ids without a width or vectors with one, received {self}")
        return self

    @classmethod
    def of(cls, name: str, value: ColumnValue) -> ColumnSpec:
        """Return the description of a column with this value, without names of ids.

        Raises:
            InputError: for a reserved or malformed name, or a value of another type or shape.
        """
        if name in RESERVED or not re.fullmatch(NAME, name) or len(name) > 64:
            raise InputError(
                f"expected a column name of lower-case letters, digits and _ that is not one of "
                f"{', '.join(sorted(RESERVED))}, received {name!r}: rename the column"
            )
        if isinstance(value, np.ndarray):
            if value.dtype.kind != "f" or value.ndim not in (1, 2) or not value.shape[-1]:
                raise InputError(
                    f"expected a float vector (V,) or, for the frames, vectors (F, V) in the column {name}, "
                    f"received {value.dtype} of shape {value.shape}: convert the values"
                )
            kind = "item" if value.ndim == 1 else "frame"
            spec = cls(name=name, kind=kind, dtype="float32", width=value.shape[-1])
        else:
            spec = cls(name=name, kind="item" if isinstance(value, str) else "frame", dtype="int64")
        expected = KINDS.get(name)
        if expected not in (None, spec.condition):
            raise InputError(
                f"expected a {expected.__name__} in the column {name}, received a value per {spec.kind}: "
                "rename the column"
            )
        return spec

    @property
    def is_ids(self) -> bool:
        """True for ids, False for vectors."""
        return self.dtype == "int64"

    @property
    def is_per_frame(self) -> bool:
        """True for a value per frame, False for one per item."""
        return self.kind == "frame"

    @property
    def condition(self) -> type[ConditionValue]:
        """Kind of condition in a batch."""
        return PerFrame if self.is_per_frame else PerItem

    @property
    def padding(self) -> int:
        """Value after the end of an item: -1 ("not given") for ids, 0 for vectors."""
        return -1 if self.is_ids else 0

    @property
    def file_name(self) -> str:
        """File in the store."""
        return f"column-{self.name}.bin"

    def shape(self, num_items: int, num_frames: int) -> tuple[int, ...]:
        """Shape of the values of all items, whose frames are `num_frames` in all."""
        rows = num_frames if self.is_per_frame else num_items
        return (rows,) if self.is_ids else (rows, self.width)

    def __str__(self) -> str:
        values = "names" if self.is_ids else f"vectors of width {self.width}"
        return f"{values} per {self.kind}"


@final
@dataclass(frozen=True, eq=False)
class Column:
    """Values of one column for all items of a store.

    Attributes:
        spec: its description.
        data: int64 ids `(rows,)`, -1 for none, or float32 vectors `(rows, V)`; a row is an item or a frame.
    """

    spec: ColumnSpec
    data: np.ndarray

    def value(self, rows: slice) -> ColumnValue | None:
        """Value of one item, as its source gave it; None for an item without a name.

        Args:
            rows: its frames, or the one row of the item.
        """
        part = self.data[rows]
        if not self.spec.is_ids:
            return part if self.spec.is_per_frame else part[0]
        names = [self.spec.names[number] if number >= 0 else None for number in part.tolist()]
        return tuple(names) if self.spec.is_per_frame else names[0]

    def condition(self, rows: Tensor) -> ConditionValue:
        """Condition of a batch.

        Args:
            rows: values of the batch, `(B,)`, `(B, V)`, `(B, F)` or `(B, F, V)`.
        """
        return self.spec.condition(rows)

    def renumbered(self, names: Sequence[str]) -> Column:
        """Return the column with ids that number these names; names not among them become -1."""
        if not self.spec.is_ids or tuple(names) == self.spec.names:
            return self
        ids = {name: number for number, name in enumerate(names)}
        # The last entry is that of id -1.
        table = np.array([*(ids.get(name, -1) for name in self.spec.names), -1], np.int64)
        return replace(self, spec=self.spec.changed({"names": tuple(names)}), data=table[self.data])

    def by_item(self, num_items: int) -> Tensor:
        """Values of items that all have the same number of frames, `(N, ...)`."""
        values = torch.from_numpy(self.data)
        return values.unflatten(0, (num_items, -1)) if self.spec.is_per_frame else values


def fault_in(columns: Columns, num_frames: int | None) -> str | None:
    """Return the reason why an item cannot be used because of its columns, or None.

    Args:
        columns: of the item.
        num_frames: frames of the decoded item; None for one without any.
    """
    for name, value in columns.items():
        is_per_frame = ColumnSpec.of(name, value).is_per_frame
        # NaN fails the comparison too.
        if isinstance(value, np.ndarray) and not (np.abs(value) <= MOST).all():
            return f"its column {name} has values that are missing or not finite"
        if is_per_frame and len(value) != num_frames:
            return f"its column {name} has {len(value)} values for {num_frames or 'no'} frames"
    return None
