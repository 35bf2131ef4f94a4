"""Named conditions of a batch: what is known of its items beside the data.

A condition has a name (`label`, `action`, `text`, ...) and a value of one of four kinds: one for the item,
one for each frame, a sequence, or a dense field. Which kind it is decides which conditioner can read it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, final

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from smalti.core.errors import InputError

V = TypeVar("V", bound="ConditionValue")
Items = slice | Sequence[int] | Tensor
"""Selects items: a slice, or their positions (int64) or a mask (bool)."""


@dataclass(frozen=True, eq=False)
class ConditionValue(ABC):
    """The value of one condition for a batch. Axis 0 of every tensor in it counts the items.

    Attributes:
        data: int64 ids, where -1 means "not given", or floating-point vectors.
    """

    data: Tensor

    def __post_init__(self) -> None:
        is_ids = self.data.dtype == torch.int64
        expected = self._ranks(is_ids)
        if not (is_ids or self.data.is_floating_point()) or self.data.ndim not in expected:
            raise InputError(
                f"expected {self._expected()}, received {self.data.dtype} of shape {tuple(self.data.shape)}: "
                "give a tensor of that shape, or another kind of condition"
            )

    @classmethod
    @abstractmethod
    def _ranks(cls, is_ids: bool) -> Sequence[int]:
        """Numbers of axes that `data` may have."""

    @classmethod
    @abstractmethod
    def _expected(cls) -> str:
        """The shapes that `data` may have, for messages."""

    @property
    def is_ids(self) -> bool:
        """Whether the values are ids rather than vectors."""
        return self.data.dtype == torch.int64

    def each(self: V, change: Callable[[Tensor], Tensor]) -> V:
        """The same kind of value with every tensor changed; all other methods go through this one."""
        # Over the fields of the class as they are, so that none can be forgotten.
        changed: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        changed = {name: old if old is None else change(old) for name, old in changed.items()}
        return type(self)(**changed)


@final
@dataclass(frozen=True, eq=False)
class PerItem(ConditionValue):
    """One value for each item: ids `(B,)` or vectors `(B, V)`."""

    @classmethod
    def _ranks(cls, is_ids: bool) -> Sequence[int]:
        return (1,) if is_ids else (2,)

    @classmethod
    def _expected(cls) -> str:
        return "one value for each item: int64 ids (B,) or float vectors (B, V)"


@final
@dataclass(frozen=True, eq=False)
class PerFrame(ConditionValue):
    """One value for each frame (position along the first axis) of each item: ids `(B, F)` or vectors
    `(B, F, V)`."""

    @classmethod
    def _ranks(cls, is_ids: bool) -> Sequence[int]:
        return (2,) if is_ids else (3,)

    @classmethod
    def _expected(cls) -> str:
        return "one value for each frame: int64 ids (B, F) or float vectors (B, F, V)"


@final
@dataclass(frozen=True, eq=False)
class TokenSequence(ConditionValue):
    """A sequence for each item, in no fixed relation to its positions: ids `(B, L)` or vectors `(B, L, V)`.

    Attributes:
        mask: bool `(B, L)`, False at padding; None when all of every sequence counts.
    """

    mask: Bool[Tensor, "b l"] | None = None

    def __post_init__(self) -> None:
        ConditionValue.__post_init__(self)
        if self.mask is not None and (
            self.mask.dtype != torch.bool or self.mask.shape != self.data.shape[:2]
        ):
            raise InputError(
                f"expected a bool mask of shape {tuple(self.data.shape[:2])}, received {self.mask.dtype} of "
                f"shape {tuple(self.mask.shape)}: give one value for each element of the sequences"
            )

    @classmethod
    def with_lengths(cls, data: Tensor, lengths: Int64[Tensor, " b"]) -> TokenSequence:
        """Sequences of these lengths, padded to a common one."""
        positions = torch.arange(data.shape[1], device=data.device)
        return cls(data, positions < lengths.to(data.device).unsqueeze(1))

    @classmethod
    def _ranks(cls, is_ids: bool) -> Sequence[int]:
        return (2,) if is_ids else (3,)

    @classmethod
    def _expected(cls) -> str:
        return "a sequence for each item: int64 ids (B, L) or float vectors (B, L, V)"


@final
@dataclass(frozen=True, eq=False)
class DenseField(ConditionValue):
    """Vectors on a grid `(B, P, *coarse)`, where every axis of `coarse` divides that of the data."""

    @classmethod
    def _ranks(cls, is_ids: bool) -> Sequence[int]:
        return () if is_ids else range(3, 10)

    @classmethod
    def _expected(cls) -> str:
        return "a dense field: float vectors (B, P, *coarse)"


KINDS: Mapping[str, type[ConditionValue]] = {
    "label": PerItem,
    "speaker": PerItem,
    "voice": PerItem,
    "action": PerFrame,
    "local": DenseField,
}
"""Names whose kind is fixed, so that a plain tensor can be given for them."""


@final
class Conditions(Mapping[str, ConditionValue]):
    """An immutable mapping from the names of a batch's conditions to their values.

    Values may be plain tensors under the names in `KINDS`; None leaves a condition out:

        Conditions(label=torch.tensor([3, -1]), text=TokenSequence(tokens, mask))
        Conditions(**{**conditions, "local": latents})    # with one more

    Args:
        values: by name.

    Raises:
        InputError: for a plain tensor under another name, or a value of the wrong shape or type.
    """

    __slots__ = ("_values",)

    def __init__(self, **values: ConditionValue | Tensor | None) -> None:
        self._values = {name: _as_value(name, value) for name, value in values.items() if value is not None}

    def __getitem__(self, name: str) -> ConditionValue:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        parts = (
            f"{name}={type(value).__name__}{tuple(value.data.shape)}" for name, value in self._values.items()
        )
        return f"Conditions({', '.join(parts)})"

    def tensor(self, name: str) -> Tensor | None:
        """The ids or vectors of a condition, or None when it is absent."""
        value = self._values.get(name)
        return None if value is None else value.data

    def to(self, device: torch.device | str) -> Conditions:
        """The same conditions on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def part(self, items: Items) -> Conditions:
        """The conditions of some of the items, in the order given."""
        return self._each(lambda tensor: tensor[items])

    def repeat(self, times: int) -> Conditions:
        """Each item's conditions so many times in a row."""
        return self._each(lambda tensor: tensor.repeat_interleave(times, 0))

    def frames(self, frames: slice) -> Conditions:
        """The conditions of some of the frames; those that are not one a frame are kept whole."""
        return Conditions(
            **{
                name: value.each(lambda tensor: tensor[:, frames]) if isinstance(value, PerFrame) else value
                for name, value in self._values.items()
            }
        )

    def only(self, *names: str) -> Conditions:
        """The conditions of these names, as far as they are present."""
        return Conditions(**{name: self._values[name] for name in names if name in self._values})

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        return Conditions(**{name: value.each(change) for name, value in self._values.items()})


def _as_value(name: str, value: ConditionValue | Tensor) -> ConditionValue:
    if isinstance(value, ConditionValue):
        expected = KINDS.get(name)
        if expected is not None and type(value) is not expected:
            raise InputError(
                f"expected a {expected.__name__} as the condition {name!r}, received a "
                f"{type(value).__name__}: give that, or choose another name"
            )
        return value
    if name not in KINDS:
        raise InputError(
            f"expected a kind of condition for {name!r}, received a plain tensor: wrap it in PerItem, "
            f"PerFrame, TokenSequence or DenseField (only {', '.join(KINDS)} have a fixed kind)"
        )
    return KINDS[name](value)


@dataclass(frozen=True)
class Batch:
    """One batch, ready for a model.

    Attributes:
        data: signals in their model range, or codes for a prior.
        conditions: what is known of the items beside the data.
        lengths: of each item on its first axis after the channels (time), int64 `(B,)`, where items end
            before the batch does; what follows an item is padding, and does not count. None when all fill
            the batch.
        mask: which values are present, bool in the shape of the data; missing ones do not count, and the data
            is 0 there. None when none is missing.
    """

    data: Tensor
    conditions: Conditions = field(default_factory=Conditions)
    lengths: Int64[Tensor, " b"] | None = None
    mask: Bool[Tensor, "b c *size"] | None = None

    def num_values(self) -> Int64[Tensor, " b"]:
        """Values that count in each item: neither padding nor missing. Scores are divided by these."""
        length = self.data.shape[2]
        if self.mask is None:
            full = torch.full((len(self.data),), length, device=self.data.device)
            return (full if self.lengths is None else self.lengths) * (self.data[0].numel() // length)
        mask = self.mask
        if self.lengths is not None:
            inside = torch.arange(length, device=mask.device) < self.lengths.unsqueeze(1)
            mask = mask & inside.view(len(mask), 1, -1, *(1,) * (mask.ndim - 3))
        return mask.flatten(1).sum(1)
