"""Named conditions of a batch: labels, actions, text and other inputs beside the data.

A condition has a name (`label`, `action`, `text`, ...) and a value of one of four kinds: one value per item,
one per frame, a sequence, or a dense field. The kind determines which conditioners can read it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, TypeVar, final

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from smalti.core.errors import InputError

V = TypeVar("V", bound="ConditionValue")
Items = slice | Sequence[int] | Tensor
"""A selection of items: a slice, indices (int64) or a mask (bool)."""


@dataclass(frozen=True, eq=False)
class ConditionValue(ABC):
    """The value of one condition for a batch; axis 0 of each of its tensors is the batch axis.

    Attributes:
        data: int64 ids, where -1 means "not given", or floating-point vectors.

    Raises:
        InputError: if the type or the number of axes of `data` does not fit the kind of condition.
    """

    data: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.data, Tensor):
            raise InputError(
                f"expected {self._expected()}, received a {type(self.data).__name__}: convert it with "
                "torch.as_tensor"
            )
        is_ids = self.data.dtype == torch.int64
        expected = self._ranks(is_ids)
        if not (is_ids or self.data.is_floating_point()) or self.data.ndim not in expected:
            raise InputError(
                f"expected {self._expected()}, received {self.data.dtype} of shape {tuple(self.data.shape)}: "
                "pass a tensor of that shape, or use another kind of condition"
            )

    @classmethod
    @abstractmethod
    def _ranks(cls, is_ids: bool) -> Sequence[int]:
        """Valid numbers of axes of `data`."""

    @classmethod
    @abstractmethod
    def _expected(cls) -> str:
        """Description of the valid shapes of `data`, for messages."""

    @property
    def is_ids(self) -> bool:
        """True if the values are ids rather than vectors."""
        return self.data.dtype == torch.int64

    @property
    def is_given(self) -> bool:
        """True if any item has a value: vectors, or an id that is not -1."""
        return not self.is_ids or bool((self.data >= 0).any())

    def each(self: V, change: Callable[[Tensor], Tensor]) -> V:
        """Return a value of the same kind with `change` applied to every tensor."""
        # Iterates over the fields of the subclass, so that no tensor of it is left unchanged.
        changed: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        changed = {name: old if old is None else change(old) for name, old in changed.items()}
        return type(self)(**changed)


@final
@dataclass(frozen=True, eq=False)
class PerItem(ConditionValue):
    """One value per item: ids `(B,)` or vectors `(B, V)`."""

    @classmethod
    def _ranks(cls, is_ids: bool) -> Sequence[int]:
        return (1,) if is_ids else (2,)

    @classmethod
    def _expected(cls) -> str:
        return "one value per item: int64 ids (B,) or float vectors (B, V)"


@final
@dataclass(frozen=True, eq=False)
class PerFrame(ConditionValue):
    """One value per frame, a position along the first axis: ids `(B, F)` or vectors `(B, F, V)`."""

    @classmethod
    def _ranks(cls, is_ids: bool) -> Sequence[int]:
        return (2,) if is_ids else (3,)

    @classmethod
    def _expected(cls) -> str:
        return "one value per frame: int64 ids (B, F) or float vectors (B, F, V)"


@final
@dataclass(frozen=True, eq=False)
class TokenSequence(ConditionValue):
    """A sequence per item, not aligned with the positions of the item: ids `(B, L)` or vectors `(B, L, V)`.

    Attributes:
        mask: bool `(B, L)`, False at padding; None if no sequence is padded.

    Raises:
        InputError: if the data or the mask has the wrong type or shape.
    """

    mask: Bool[Tensor, "b l"] | None = None

    def __post_init__(self) -> None:
        ConditionValue.__post_init__(self)
        if self.mask is not None and (
            self.mask.dtype != torch.bool or self.mask.shape != self.data.shape[:2]
        ):
            raise InputError(
                f"expected a bool mask of shape {tuple(self.data.shape[:2])}, received {self.mask.dtype} of "
                f"shape {tuple(self.mask.shape)}: pass one value per element of the sequences"
            )

    @classmethod
    def with_lengths(cls, data: Tensor, lengths: Int64[Tensor, " b"]) -> TokenSequence:
        """Create a value from padded sequences and their lengths.

        Raises:
            InputError: if there is not one length for each sequence, or one is out of range.
        """
        given = torch.as_tensor(lengths)
        if given.shape != data.shape[:1] or bool(((given < 0) | (given > data.shape[1])).any()):
            raise InputError(
                f"expected {len(data)} lengths from 0 to {data.shape[1]}, received {given.tolist()}: pass "
                "the number of elements of each sequence that are no padding"
            )
        positions = torch.arange(data.shape[1], device=data.device)
        return cls(data, positions < given.to(data.device).unsqueeze(1))

    @classmethod
    def _ranks(cls, is_ids: bool) -> Sequence[int]:
        return (2,) if is_ids else (3,)

    @classmethod
    def _expected(cls) -> str:
        return "a sequence per item: int64 ids (B, L) or float vectors (B, L, V)"


@final
@dataclass(frozen=True, eq=False)
class DenseField(ConditionValue):
    """Vectors on a grid, `(B, P, *coarse)`; each side of `coarse` divides that side of the data's grid."""

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
"""Condition names with a fixed kind; their values may be plain tensors."""

NO_SIZES: Mapping[str, int] = MappingProxyType({})
"""Numbers of ids of a module that embeds no condition."""


@final
class Conditions(Mapping[str, ConditionValue]):
    """An immutable mapping from condition names to values, for one batch.

    A value whose name is in `KINDS` may be a plain tensor. Conditions whose value is None are omitted:

        Conditions(label=torch.tensor([3, -1]), text=TokenSequence(tokens, mask))
        Conditions(**{**conditions, "local": latents})    # adds a condition

    Args:
        values: value of each condition, by name.

    Raises:
        InputError: if a plain tensor is passed under another name, or a value has the wrong shape or type.
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
        """Return the ids or vectors of a condition, or None if it is absent."""
        value = self._values.get(name)
        return None if value is None else value.data

    def to(self, device: torch.device | str) -> Conditions:
        """Copy the conditions to a device; the copy to the CPU is complete when this returns."""
        # A non-blocking copy from a GPU to the CPU may be read before it has been written.
        non_blocking = torch.device(device).type != "cpu"
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def part(self, items: Items) -> Conditions:
        """Select the conditions of some items, in the given order."""
        return self._each(lambda tensor: tensor[items])

    def repeat(self, times: int) -> Conditions:
        """Repeat the conditions of each item `times` times, the copies of an item next to each other."""
        return self._each(lambda tensor: tensor.repeat_interleave(times, 0))

    def unspecified(self) -> Conditions:
        """Replace every id by -1, "not given"; keep vectors."""
        return self._each(_not_given)

    def with_unspecified(self) -> Conditions:
        """Append, for each item, one whose ids are not given, after all of the items."""
        return self._each(lambda tensor: torch.cat([tensor, _not_given(tensor)]))

    def frames(self, frames: slice, num: int) -> Conditions:
        """Select some of `num` frames from values per frame and fields; keep all other conditions.

        Raises:
            InputError: if a condition does not fit that number of frames.
        """
        selected = dict(self._values)
        for name, value in self._values.items():
            if isinstance(value, PerFrame):
                selected[name] = PerFrame(_along_frames(name, value, num)[:, frames])
            elif isinstance(value, DenseField):
                selected[name] = DenseField(_along_frames(name, value, num)[:, frames].movedim(1, 2))
        return Conditions(**selected)

    def by_frame(self, num: int) -> Conditions:
        """Make conditions of clips with `num` frames those of `B * num` single frames, clip by clip.

        A value per frame becomes one per item, and a field over the clip one over the frame; all others are
        repeated.

        Raises:
            InputError: if a condition does not fit that number of frames, or its name has another fixed kind.
        """
        made: dict[str, ConditionValue] = {}
        for name, value in self._values.items():
            if isinstance(value, PerFrame):
                made[name] = PerItem(_along_frames(name, value, num).flatten(0, 1))
            elif isinstance(value, DenseField):
                made[name] = DenseField(_along_frames(name, value, num).flatten(0, 1))
            else:
                made[name] = value.each(lambda tensor: tensor.repeat_interleave(num, 0))
        return Conditions(**made)

    def only(self, *names: str) -> Conditions:
        """Select the conditions with these names; absent ones are ignored."""
        return Conditions(**{name: self._values[name] for name in names if name in self._values})

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        return Conditions(**{name: value.each(change) for name, value in self._values.items()})


def _not_given(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, -1) if tensor.dtype == torch.int64 else tensor


def _as_value(name: str, value: ConditionValue | Tensor) -> ConditionValue:
    if isinstance(value, ConditionValue):
        expected = KINDS.get(name)
        if expected is not None and type(value) is not expected:
            raise InputError(
                f"expected a {expected.__name__} as the condition {name!r}, received a "
                f"{type(value).__name__}: pass a {expected.__name__}, or use another name"
            )
        return value
    if name not in KINDS:
        raise InputError(
            f"expected a kind of condition for {name!r}, received a plain tensor: wrap it in PerItem, "
            f"PerFrame, TokenSequence or DenseField (only {', '.join(KINDS)} have a fixed kind)"
        )
    return KINDS[name](value)


def _along_frames(name: str, value: PerFrame | DenseField, num: int) -> Tensor:
    """The tensor of a value with its `num` frames as axis 1; a coarse field is repeated over its frames."""
    data = value.data if isinstance(value, PerFrame) else value.data.movedim(2, 1)
    given = data.shape[1]
    if given == 0 or num % given or (isinstance(value, PerFrame) and given != num):
        raise InputError(
            f"expected the condition {name!r} of {num} frames, received {tuple(value.data.shape)}: pass one "
            "value per frame, or a field whose first axis divides them"
        )
    return data.repeat_interleave(num // given, 1)


def given_conditions(given: Any, num: int) -> Conditions:
    """Return the conditions that a user passed for `num` items; None stands for no conditions.

    Raises:
        InputError: for another type, or another number of items.
    """
    if given is None:
        return Conditions()
    if not isinstance(given, Conditions):
        raise InputError(
            f"expected Conditions, received a {type(given).__name__}: write Conditions(name=value)"
        )
    for name, value in given.items():
        if len(value.data) != num:
            raise InputError(
                f"expected the condition {name!r} for {num} items, received it for {len(value.data)}: pass "
                "one value per item"
            )
    return given


def id_sizes(conditions: Mapping[str, int] | None, *names: str) -> dict[str, int]:
    """Select the conditions that a module embeds; those without ids are left out.

    Args:
        conditions: number of ids of each id condition of the data, by name; None for none.
        names: of the conditions that the module can embed.

    Raises:
        InputError: if the numbers are not a mapping of integers of at least 0.
    """
    given = {} if conditions is None else conditions
    if not isinstance(given, Mapping) or any(type(size) is not int or size < 0 for size in given.values()):
        raise InputError(
            f"expected the number of ids of each condition, received {conditions!r}: pass a mapping such as "
            '{"label": 10}'
        )
    return {name: given[name] for name in names if given.get(name)}


def with_label(conditions: Conditions, label: int, num: int) -> Conditions:
    """Add one label to all items of some conditions.

    Args:
        conditions: of `num` items; any labels in them are kept if `label` is -1.
        label: -1 for none.
        num: number of items.

    Raises:
        InputError: if there are labels already and another one is given.
    """
    if "label" not in conditions:
        return Conditions(**conditions, label=torch.full((num,), label))
    if label >= 0:
        raise InputError("expected a class or labels among the conditions, received both: leave one out")
    return conditions


@dataclass(frozen=True)
class Batch:
    """A batch of model inputs.

    Attributes:
        data: signals in the model's range, or codes for a prior.
        conditions: conditions of the items.
        lengths: int64 `(B,)`, length of each item along the first axis after the channels (time). Values
            beyond it are padding, which losses and scores ignore. None if no item is padded.
        mask: bool, in the shape of the data, False at missing values, where the data is 0; losses and scores
            ignore them. None if no value is missing.

    Raises:
        InputError: if the data is no tensor, or the conditions are no `Conditions`.
    """

    data: Tensor
    conditions: Conditions = field(default_factory=Conditions)
    lengths: Int64[Tensor, " b"] | None = None
    mask: Bool[Tensor, "b c *size"] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.data, Tensor) and isinstance(self.conditions, Conditions)):
            raise InputError(
                "expected the data of a batch as a tensor, and its conditions as Conditions, received a "
                f"{type(self.data).__name__} and a {type(self.conditions).__name__}: write "
                "Batch(tensor, Conditions(name=value))"
            )

    def part(self, items: Tensor) -> Batch:
        """Select some items, in the given order.

        Args:
            items: int64 indices, or a bool mask.
        """
        lengths = None if self.lengths is None else self.lengths[items]
        mask = None if self.mask is None else self.mask[items]
        return Batch(self.data[items], self.conditions.part(items), lengths, mask)

    def observed(self) -> Bool[Tensor, "b c *size"] | None:
        """Mask of the values that are neither padding nor missing; None if all are."""
        if self.lengths is None:
            return self.mask
        inside = torch.arange(self.data.shape[2], device=self.data.device) < self.lengths.unsqueeze(1)
        inside = inside.view(len(inside), 1, -1, *(1,) * (self.data.ndim - 3))
        return inside.expand_as(self.data) if self.mask is None else self.mask & inside

    def num_values(self) -> Int64[Tensor, " b"]:
        """Number of values in each item that are neither padding nor missing: the divisor of scores."""
        if (observed := self.observed()) is not None:
            return observed.flatten(1).sum(1)
        return torch.full((len(self.data),), self.data[0].numel(), device=self.data.device)
