"""Conditioner that adds a projection of a dense field, upsampled to the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.conditioners.additive import (
    AdditiveConditioner,
    check_items,
    gradient_path,
    hidden_items,
    refuse,
)
from smalti.core.conditioners import CONDITIONERS, ConditionerConfig
from smalti.core.conditions import ConditionValue, DenseField


@CONDITIONERS.register
class UpsampledFieldConfig(ConditionerConfig):
    """Settings of an `UpsampledField`; see its arguments."""

    kind: Literal["upsampled_field"] = "upsampled_field"
    dim: int = Field(ge=1)
    dropout: float = Field(default=0.0, ge=0, le=1)

    @classmethod
    def tiny(cls) -> UpsampledFieldConfig:
        """The smallest config with every part, for tests."""
        return cls(dim=2)

    def build(self, channels: int) -> UpsampledField:
        """Build the untrained conditioner."""
        return UpsampledField(channels, self.dim, self.dropout)


@final
class UpsampledField(AdditiveConditioner):
    """Adds a 1x1 projection of a field, upsampled to the grid by repetition.

    Args:
        channels: C of the activations.
        dim: P, channels of the field; each axis of the field divides that of the grid.
        dropout: share of the items whose fields training hides; nothing is added for them.
    """

    config: UpsampledFieldConfig

    def __init__(self, channels: int, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = UpsampledFieldConfig(dim=dim, dropout=dropout)
        self.linear = nn.Linear(dim, channels)

    def prepare(
        self, value: ConditionValue | None, batch_size: int, grid: Sequence[int], hide: bool = False
    ) -> Float[Tensor, "b c positions"]:
        """Compute the bias; see `Conditioner.prepare`.

        Raises:
            InputError: if the value is not a field of these channels, or does not divide the grid.
        """
        weight = self.linear.weight
        if value is None:
            return weight.new_zeros(batch_size, len(weight), 1) + gradient_path(self.linear)
        coarse = value.data.shape[2:]
        if (
            not isinstance(value, DenseField)
            or value.data.shape[1] != self.config.dim
            or len(coarse) != len(grid)
            or any(not part or side % part for side, part in zip(grid, coarse, strict=True))
        ):
            refuse(f"a field of {self.config.dim} channels whose axes divide the grid {tuple(grid)}", value)
        check_items(value, batch_size)
        hidden = hidden_items(batch_size, self.config.dropout, hide, weight.device)
        bias = self.linear(value.data.to(weight).movedim(1, -1)).movedim(-1, 1)
        for axis, (side, part) in enumerate(zip(grid, coarse, strict=True), 2):
            bias = bias.repeat_interleave(side // part, axis)
        return torch.where(hidden.view(-1, 1, 1), 0, bias.flatten(2))
