"""Transformer blocks over a grid of any size, with rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from smalti.core.errors import InputError
from smalti.nn.positions import encoded_positions

BASE = 100.0
"""Ratio of the longest wavelength of rotary positions to the shortest one."""
HEAD_DIM = 64
"""Channels per head by default."""
POSITION_SCALE = 0.02
"""Initial scale of the encoded positions that are added to the activations."""


def rotary_angles(
    grid: Sequence[int], head_dim: int, device: torch.device | None = None
) -> Float[Tensor, "n h"]:
    """Angles by which pairs of channels are rotated at each position of a grid, in row-major order.

    The pairs are divided among the axes, so products of queries and keys depend on distances along each axis.
    Source: Su et al. 2021, "RoFormer" (arXiv 2104.09864); several axes as in Heo et al. 2024 (2403.13298).

    Args:
        grid: sides of the grid.
        head_dim: channels of a head, even; the result has half as many columns.
        device: of the result.

    Raises:
        InputError: if there are fewer pairs than axes.
    """
    pairs = head_dim // 2
    if pairs < len(grid):
        raise InputError(
            f"expected heads of at least {2 * len(grid)} channels for grids with {len(grid)} axes, received "
            f"{head_dim}: set fewer heads, or more channels"
        )
    numbers = [pairs // len(grid) + (axis < pairs % len(grid)) for axis in range(len(grid))]
    columns: list[Tensor] = []
    for axis, (side, number) in enumerate(zip(grid, numbers, strict=True)):
        wavelengths = BASE ** (torch.arange(number, dtype=torch.float32, device=device) / max(1, number))
        angles = torch.arange(side, dtype=torch.float32, device=device)[:, None] / wavelengths
        shape = [1] * len(grid)
        shape[axis] = side
        columns.append(angles.view(*shape, number).expand(*grid, number).flatten(0, -2))
    return torch.cat(columns, 1)


def rotate(x: Float[Tensor, "b heads n d"], angles: Float[Tensor, "n h"]) -> Float[Tensor, "b heads n d"]:
    """Rotate the pairs of channels `(i, i + d/2)` of queries or keys, by angles in float32."""
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


@final
class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); every position attends to all others.

    Args:
        channels: channels of the input and the output.
        heads: number of heads.
        expansion: hidden channels of the MLP, as a multiple of the channels.
    """

    def __init__(self, channels: int, heads: int, expansion: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, expansion * channels), nn.GELU(), nn.Linear(expansion * channels, channels)
        )

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        angles: Float[Tensor, "n h"],
        attended: Bool[Tensor, "b 1 1 n"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Same shape as the input.

        Args:
            x: positions of a grid, in row-major order.
            angles: of the grid, see `rotary_angles`.
            attended: True for positions that are attended to; None for all.
        """
        parts = self.query_key_value(self.attention_norm(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, angles), rotate(key, angles)
        mixed = F.scaled_dot_product_attention(query, key, value, attended)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


def num_heads(channels: int, heads: int | None) -> int:
    """Number of heads: as given, or one per 64 channels.

    Raises:
        InputError: if the channels cannot be divided into heads of an even number of channels.
    """
    heads = heads or max(1, channels // HEAD_DIM)
    if channels % (2 * heads):
        raise InputError(
            f"expected channels that are a multiple of twice the number of heads, received {channels} "
            f"channels and {heads} heads: set channels={2 * heads * max(1, round(channels / 2 / heads))}"
        )
    return heads


@final
class GridTransformer(nn.Module):
    """Transformer blocks over activations `(B, C, *grid)` of any size, and a last normalization.

    Encoded positions are added to the activations, and queries and keys are rotated: without the first,
    equal activations everywhere would stay equal.

    Args:
        channels: channels of the input and the output.
        layers: number of blocks.
        heads: number of heads; None for one per 64 channels.

    Raises:
        InputError: if the channels cannot be divided into heads of an even number of channels.
    """

    def __init__(self, channels: int, layers: int, heads: int | None = None) -> None:
        super().__init__()
        heads = num_heads(channels, heads)
        self.channels, self.head_dim = channels, channels // heads
        self.position_scale = nn.Parameter(torch.full((channels,), POSITION_SCALE))
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, x: Float[Tensor, "b c *grid"], is_inside: Bool[Tensor, "b 1 *grid"] | None = None
    ) -> Float[Tensor, "b c *grid"]:
        """Same shape as the input.

        Args:
            x: activations.
            is_inside: False for padding, which no position attends to; None without padding.
        """
        grid = x.shape[2:]
        attended = None if is_inside is None else is_inside.flatten(1)[:, None, None]
        angles = rotary_angles(grid, self.head_dim, x.device)
        places = encoded_positions(grid, self.channels).to(self.position_scale)
        positions = x.flatten(2).transpose(1, 2) + places * self.position_scale
        for block in self.blocks:
            positions = block(positions, angles, attended)
        return self.norm(positions).transpose(1, 2).unflatten(2, grid)
