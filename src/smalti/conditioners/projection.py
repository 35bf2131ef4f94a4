"""Conditioner that adds a projection of vectors per item or per frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.conditioners.additive import (
    AdditiveConditioner,
    along_grid,
    check_items,
    gradient_path,
    hidden_items,
    refuse,
)
from smalti.core.conditioners import CONDITIONERS, ConditionerConfig
from smalti.core.conditions import ConditionValue, PerFrame, PerItem


@CONDITIONERS.register
class ProjectionConfig(ConditionerConfig):
    """Settings of a `Projection`; see its arguments."""

    kind: Literal["projection"] = "projection"
    dim: int = Field(ge=1)
    dropout: float = Field(default=0.1, ge=0, le=1)

    @classmethod
    def tiny(cls) -> ProjectionConfig:
        """The smallest config with every part, for tests."""
        return cls(dim=2)

    def build(self, channels: int) -> Projection:
        """Build the untrained conditioner."""
        return Projection(channels, self.dim, self.dropout)


@final
class Projection(AdditiveConditioner):
    """Adds a linear projection of a vector per item or per frame, such as a continuous action.

    Args:
        channels: C of the activations.
        dim: V, width of the vectors.
        dropout: share of the items whose vectors training hides; a learned bias replaces a hidden or absent
            vector's projection.
    """

    config: ProjectionConfig

    def __init__(self, channels: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.config = ProjectionConfig(dim=dim, dropout=dropout)
        self.linear = nn.Linear(dim, channels)
        self.absent = nn.Parameter(torch.zeros(channels))

    def prepare(
        self, value: ConditionValue | None, batch_size: int, grid: Sequence[int], hide: bool = False
    ) -> Float[Tensor, "b c positions"]:
        """Compute the bias; see `Conditioner.prepare`.

        Raises:
            InputError: if the value does not hold vectors of this width.
        """
        if value is None:
            return (self.absent + gradient_path(self.linear)).expand(batch_size, -1).unsqueeze(2)
        right_kind = isinstance(value, PerItem | PerFrame) and not value.is_ids
        if not right_kind or value.data.shape[-1] != self.config.dim:
            refuse(f"vectors of width {self.config.dim} of the item or of each frame", value)
        check_items(value, batch_size)
        vectors = value.data.to(self.absent).view(batch_size, -1, self.config.dim)
        hidden = hidden_items(batch_size, self.config.dropout, hide, self.absent.device)
        bias = self.absent.where(hidden.view(-1, 1, 1), self.linear(vectors))
        return along_grid(bias, grid) if isinstance(value, PerFrame) else bias.transpose(1, 2)
