"""Residual networks with group normalization and attention, in any number of dimensions: the VQGAN family.

Source: Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis" (arXiv 2012.09841).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.errors import InputError
from smalti.nn.blocks import CONVOLUTIONS, num_groups

MOST_GROUPS = 32
EPS = 1e-6


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalization with up to 32 groups, as many as divide the channels, of four channels or more."""
    return nn.GroupNorm(num_groups(channels, min(MOST_GROUPS, max(1, channels // 4))), channels, eps=EPS)


@final
class ResNetBlock(nn.Module):
    """x + conv3(SiLU(norm(conv3(SiLU(norm(x)))))), with a 1x1 convolution of x where the width changes.

    Args:
        ndim: number of axes after the channels.
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, ndim: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        conv = CONVOLUTIONS[ndim]
        self.layers = nn.Sequential(
            group_norm(in_channels),
            nn.SiLU(),
            conv(in_channels, out_channels, 3, padding=1),
            group_norm(out_channels),
            nn.SiLU(),
            conv(out_channels, out_channels, 3, padding=1),
        )
        self.skip = nn.Identity() if in_channels == out_channels else conv(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b d *size"]:
        """Same size as the input."""
        return self.skip(x) + self.layers(x)


@final
class SelfAttention(nn.Module):
    """x + project(attention(norm(x))), with one head, over all positions of a grid.

    Memory and time grow with the square of the number of positions, so it is for the coarsest grids.

    Args:
        channels: channels of the input and the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Same shape as the input."""
        positions = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = (part(positions).unsqueeze(1) for part in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        return x + self.out(attended).transpose(1, 2).unflatten(2, x.shape[2:])


@final
class StridedConvolution(nn.Module):
    """Downsample by a convolution with kernel size 2s - 1 for stride s, per axis: length n -> n/s.

    At stride 2 it is the 3x3 convolution of VQGAN, which pads on the right only.

    Args:
        ndim: number of axes after the channels.
        channels: channels of the input and the output.
        strides: stride of each axis.
    """

    def __init__(self, ndim: int, channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        kernel = tuple(2 * stride - 1 for stride in strides)
        self.conv = CONVOLUTIONS[ndim](channels, channels, kernel, tuple(strides))  # pyright: ignore[reportArgumentType]
        sides = [((stride - 1) // 2, stride - 1 - (stride - 1) // 2) for stride in reversed(strides)]
        self._padding = [side for both in sides for side in both]

    def forward(self, x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *smaller"]:
        """Divide the size by the strides, which must divide it."""
        return self.conv(F.pad(x, self._padding))


@final
class NearestUpsampling(nn.Module):
    """Repeat every position, then a 3x3 convolution.

    Args:
        ndim: number of axes after the channels.
        channels: channels of the input and the output.
        strides: factor of each axis.
    """

    def __init__(self, ndim: int, channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.conv = CONVOLUTIONS[ndim](channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *larger"]:
        """Multiply the size by the strides."""
        size = [side * stride for side, stride in zip(x.shape[2:], self.strides, strict=True)]
        return self.conv(F.interpolate(x, size=size, mode="nearest-exact"))


def middle(ndim: int, channels: int, has_attention: bool) -> list[nn.Module]:
    """Layers at the coarsest grid: two blocks, with attention between them."""
    attention = [SelfAttention(channels)] if has_attention else []
    return [
        ResNetBlock(ndim, channels, channels),
        *attention,
        ResNetBlock(ndim, channels, channels),
    ]


def head(ndim: int, channels: int, out_channels: int) -> list[nn.Module]:
    """Last layers: normalization, SiLU and a 3x3 convolution."""
    return [group_norm(channels), nn.SiLU(), CONVOLUTIONS[ndim](channels, out_channels, 3, padding=1)]


def widths(channels: int, multipliers: Sequence[int], num_stages: int) -> list[int]:
    """Channels at each resolution, the finest first; the last multiplier stands for all further ones.

    Raises:
        InputError: if there are no multipliers.
    """
    if not multipliers:
        raise InputError("expected at least one multiplier of the channels, received none: pass (1, 2, 4)")
    given = [*multipliers, *[multipliers[-1]] * num_stages]
    return [channels * multiplier for multiplier in given[: num_stages + 1]]
