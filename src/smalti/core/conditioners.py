"""Conditioners: modules that tell a network's activations what a condition says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast, final

from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.conditions import Conditions, ConditionValue
from smalti.core.config import Configuration
from smalti.core.registry import Registry


class Conditioner(nn.Module, ABC):
    """Maps activations `(B, C, *grid)` and a condition's value to activations of the same shape.

    It treats each position by itself, so that an autoregressive network stays causal and its cached step can
    apply it to one position.
    """

    @abstractmethod
    def prepare(
        self, value: ConditionValue | None, batch_size: int, grid: Sequence[int], hide: bool = False
    ) -> Any:
        """Compute all that does not depend on the activations, once for all positions and layers.

        Args:
            value: of the condition; None when the batch has none.
            batch_size: B.
            grid: of the activations.
            hide: whether to drop the condition of a share of the items, as training does.

        Raises:
            InputError: when the value is of another kind, size or range.
        """

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "b c *positions"], prepared: Any, position: int | None = None
    ) -> Float[Tensor, "b c *positions"]:
        """Condition the activations of the whole grid, or of one position.

        Args:
            x: `(B, C, *grid)`, or `(B, C)` at a position.
            prepared: from `prepare`.
            position: row-major in the grid; None for all of them.
        """


class ConditionerConfig(Configuration):
    """Settings of a conditioner; each kind has a `kind: Literal[...]`."""

    def build(self, channels: int) -> Conditioner:
        """The untrained conditioner of activations of this many channels."""
        raise NotImplementedError


CONDITIONERS = Registry("conditioner", ConditionerConfig, "smalti.conditioners")

AnyConditioner = Annotated[ConditionerConfig, CONDITIONERS]


@final
class Conditioners(nn.Module):
    """The conditioners of a network, by the names of the conditions that they read; applied in order.

    Conditions without a conditioner are ignored.
    """

    def __init__(self, conditioners: Mapping[str, Conditioner] | None = None) -> None:
        super().__init__()
        self.by_name = nn.ModuleDict(dict(conditioners or {}))

    def __len__(self) -> int:
        return len(self.by_name)

    def prepare(
        self, conditions: Conditions | None, batch_size: int, grid: Sequence[int], hide: bool = False
    ) -> dict[str, Any]:
        """What each conditioner prepares; see `Conditioner.prepare`."""
        values = conditions or Conditions()
        return {
            name: cast("Conditioner", module).prepare(values.get(name), batch_size, grid, hide)
            for name, module in self.by_name.items()
        }

    def forward(
        self, x: Float[Tensor, "b c *positions"], prepared: Mapping[str, Any], position: int | None = None
    ) -> Float[Tensor, "b c *positions"]:
        """Apply each conditioner in turn; see `Conditioner.forward`."""
        for name, module in self.by_name.items():
            x = module(x, prepared[name], position)
        return x
