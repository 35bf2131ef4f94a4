"""Encodings of the positions of a grid by sines and cosines (Vaswani et al. 2017, arXiv 1706.03762)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

LONGEST_WAVE = 100
"""Ratio of the highest to the lowest frequency of the position encoding: about half a turn in 314 positions.
The 10,000 that is usual for text would leave most channels nearly constant on the short axes of a grid."""


def sinusoids(length: int, channels: int) -> Float[Tensor, "n c"]:
    """Sines, then cosines, of the coordinates 0 to length - 1 at frequencies 1 to 1/`LONGEST_WAVE`."""
    pairs = (channels + 1) // 2
    frequencies = LONGEST_WAVE ** (-torch.arange(pairs) / pairs)
    angles = torch.arange(length).unsqueeze(1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :channels]


def encoded_positions(grid: Sequence[int], channels: int) -> Float[Tensor, "p c"]:
    """Encoding of each position of a grid, in row-major order: the channels are divided among the axes."""
    axes = len(grid)
    encodings = []
    for axis, size in enumerate(grid):
        share = channels // axes + (axis < channels % axes)
        along = [size if other == axis else 1 for other in range(axes)]
        encodings.append(sinusoids(size, share).view(*along, share).expand(*grid, share))
    return torch.cat(encodings, -1).flatten(0, -2)
