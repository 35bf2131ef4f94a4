"""Cross-attention to a sequence, such as the tokens of a text.

Source: Vaswani et al. 2017, "Attention Is All You Need" (arXiv 1706.03762), section 3.2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.conditioners.additive import check_items, gradient_path, hidden_items, refuse
from smalti.core.conditioners import CONDITIONERS, Conditioner, ConditionerConfig
from smalti.core.conditions import ConditionValue, TokenSequence
from smalti.core.errors import InputError

LONGEST_WAVE = 10_000
"""Ratio of the highest to the lowest frequency of the position encoding."""


@CONDITIONERS.register
class CrossAttentionConfig(ConditionerConfig):
    """Settings of a `CrossAttention`; see its arguments."""

    kind: Literal["cross_attention"] = "cross_attention"
    num_ids: int = Field(default=0, ge=0)
    dim: int = Field(default=64, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0, le=1)

    @classmethod
    def tiny(cls) -> CrossAttentionConfig:
        """The smallest config with every part, for tests."""
        return cls(num_ids=7, dim=6, heads=2)

    def build(self, channels: int) -> CrossAttention:
        """Build the untrained conditioner."""
        return CrossAttention(channels, self.num_ids, self.dim, self.heads, self.dropout)


@dataclass(frozen=True)
class Attended:
    """Keys and values of the attention.

    Attributes:
        keys, values: of a learned element, then those of the sequence, `(B, heads, 1 + L, C / heads)`.
        mask: bool `(B, 1, 1, 1 + L)`, False at absent elements.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor


@final
class CrossAttention(Conditioner):
    """x + attention(norm(x), sequence), over the sequence and a learned element that is always present.

    An item without a sequence attends only to the learned element.

    Args:
        channels: C of the activations, a multiple of `heads`.
        num_ids: ids of the elements are 0 to num_ids - 1; 0 for a sequence of vectors.
        dim: width of the elements: of the vectors, or of the ids' embeddings.
        heads: number of attention heads.
        dropout: share of the items whose sequences training hides.

    Raises:
        InputError: if the heads do not divide the channels.
    """

    config: CrossAttentionConfig

    def __init__(
        self, channels: int, num_ids: int = 0, dim: int = 64, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.config = CrossAttentionConfig(num_ids=num_ids, dim=dim, heads=heads, dropout=dropout)
        if channels % heads:
            raise InputError(
                f"expected heads that divide {channels} channels, received {heads}: use another number"
            )
        self.embed = nn.Embedding(num_ids, dim) if num_ids else None
        self.absent = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels, bias=False)
        self.project = nn.Linear(dim, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def prepare(
        self, value: ConditionValue | None, batch_size: int, grid: Sequence[int], hide: bool = False
    ) -> Attended:
        """Compute keys and values; see `Conditioner.prepare`.

        Raises:
            InputError: if the value is not a matching sequence, or ids are out of range.
        """
        elements = self.absent.expand(batch_size, -1, -1)
        mask = torch.ones(batch_size, 1, dtype=torch.bool, device=elements.device)
        if value is None:
            elements = elements if self.embed is None else elements + gradient_path(self.embed)
        else:
            sequence, present = self._elements(value, batch_size)
            hidden = hidden_items(batch_size, self.config.dropout, hide, mask.device)
            elements = torch.cat([elements, sequence], 1)
            mask = torch.cat([mask, present & ~hidden.unsqueeze(1)], 1)
        keys, values = self.project(elements).unflatten(2, (2, self.config.heads, -1)).permute(2, 0, 3, 1, 4)
        return Attended(keys, values, mask[:, None, None])

    def forward(
        self, x: Float[Tensor, "b c *positions"], prepared: Attended, position: int | None = None
    ) -> Float[Tensor, "b c *positions"]:
        """Attend from every position; `position` has no effect, because positions are independent."""
        tokens = x.reshape(*x.shape[:2], -1).transpose(1, 2)
        queries = self.query(self.norm(tokens)).unflatten(2, (self.config.heads, -1)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(queries, prepared.keys, prepared.values, prepared.mask)
        return x + self.out(attended.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)

    def _elements(self, value: ConditionValue, batch_size: int) -> tuple[Tensor, Tensor]:
        """The elements plus a position encoding, `(B, L, dim)`, and a mask of those that are present."""
        num_ids, dim = self.config.num_ids, self.config.dim
        is_right = isinstance(value, TokenSequence) and value.is_ids == (num_ids > 0)
        if not is_right or (not num_ids and value.data.shape[2] != dim):
            refuse(f"a sequence of {f'ids below {num_ids}' if num_ids else f'vectors of width {dim}'}", value)
        check_items(value, batch_size)
        assert isinstance(value, TokenSequence)
        device = self.absent.device
        data = value.data.to(device)
        present = torch.ones(data.shape[:2], dtype=torch.bool, device=device)
        if value.mask is not None:
            present = value.mask.to(device)
        if self.embed is None:
            elements = data.to(self.absent.dtype)
        else:
            if data.numel() and (int(data.min()) < -1 or int(data.max()) >= num_ids):
                raise InputError(
                    f"expected ids from 0 to {num_ids - 1}, or -1 for none, received ids from "
                    f"{int(data.min())} to {int(data.max())}: check the column"
                )
            present = present & (data >= 0)
            elements = self.embed(data.clamp(min=0))
        return elements + _encoding(data.shape[1], dim).to(self.absent), present


def _encoding(length: int, dim: int) -> Float[Tensor, "l d"]:
    """Sines, then cosines, of the positions 0 to length - 1 (section 3.5 of the paper)."""
    pairs = (dim + 1) // 2
    angles = torch.arange(length).unsqueeze(1) * LONGEST_WAVE ** (-torch.arange(pairs) / pairs)
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :dim]
