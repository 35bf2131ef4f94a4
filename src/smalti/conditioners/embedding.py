"""Conditioner that adds an embedding of ids per item or per frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.conditioners.additive import AdditiveConditioner, along_grid, check_items, hidden_items, refuse
from smalti.core.conditioners import CONDITIONERS, ConditionerConfig
from smalti.core.conditions import ConditionValue, PerFrame, PerItem
from smalti.core.errors import InputError
from smalti.nn.symbols import has_values

INITIAL_STD = 0.02
"""Standard deviation of the initial embeddings."""


@CONDITIONERS.register
class EmbeddingConfig(ConditionerConfig):
    """Settings of an `Embedding`; see its arguments."""

    kind: Literal["embedding"] = "embedding"
    num_ids: int = Field(ge=1)
    dropout: float = Field(default=0.1, ge=0, le=1)

    @classmethod
    def tiny(cls) -> EmbeddingConfig:
        """The smallest config with every part, for tests."""
        return cls(num_ids=3)

    def build(self, channels: int) -> Embedding:
        """Build the untrained conditioner."""
        return Embedding(channels, self.num_ids, self.dropout)


@final
class Embedding(AdditiveConditioner):
    """Adds the embedding of an id per item or per frame; "not given" (-1) has its own embedding.

    Args:
        channels: C of the activations.
        num_ids: ids are 0 to num_ids - 1.
        dropout: share of the items whose ids training hides.
    """

    config: EmbeddingConfig

    def __init__(self, channels: int, num_ids: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.config = EmbeddingConfig(num_ids=num_ids, dropout=dropout)
        self.num_ids = num_ids
        self.table = nn.Embedding(num_ids + 1, channels)
        nn.init.normal_(self.table.weight, std=INITIAL_STD)

    def prepare(
        self, value: ConditionValue | None, batch_size: int, grid: Sequence[int], hide: bool = False
    ) -> Float[Tensor, "b c positions"]:
        """Compute the bias; see `Conditioner.prepare`.

        Raises:
            InputError: if the value does not hold ids, or ids are out of range.
        """
        num_ids, device = self.config.num_ids, self.table.weight.device
        if value is None:
            value = PerItem(torch.full((batch_size,), -1, device=device))
        if not isinstance(value, PerItem | PerFrame) or not value.is_ids:
            refuse("ids of the item or of each frame", value)
        check_items(value, batch_size)
        if has_values(value.data):
            low, high = (int(bound) for bound in value.data.aminmax())
            if low < -1 or high >= num_ids:
                raise InputError(
                    f"expected ids from 0 to {num_ids - 1}, or -1 for none, received ids from {low} to "
                    f"{high}: check the column, or build the conditioner for more ids"
                )
        ids = value.data.to(device).view(batch_size, -1)
        hidden = hidden_items(batch_size, self.config.dropout, hide, device).unsqueeze(1)
        bias = self.table(ids.masked_fill(hidden | (ids < 0), num_ids))
        return along_grid(bias, grid) if isinstance(value, PerFrame) else bias.transpose(1, 2)
