"""ConvNeXt blocks over time (Liu et al. 2022, arXiv 2201.03545), as Vocos has them."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EXPANSION = 3
"""Width of the hidden layer of a block, in multiples of its channels; Siuzdak 2023 uses 3."""


@final
class ConvNeXtBlock(nn.Module):
    """x + s W2 GELU(W1 LayerNorm(depthwise conv7(x))), with a learned scale s for each channel.

    The layer norm is over the channels of each position, so the block is local.

    Args:
        channels: channels of the input and the output.
        scale: initial value of s.
        causal: whether no output depends on later inputs.
    """

    def __init__(self, channels: int, scale: float = 1.0, causal: bool = False) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, groups=channels)
        self.after = 0 if causal else 3
        self.before = 6 - self.after
        """Inputs that an output depends on, beside its own."""
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, EXPANSION * channels)
        self.contract = nn.Linear(EXPANSION * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
        """Same shape as the input."""
        y = self.depthwise(F.pad(x, (self.before, self.after))).transpose(1, 2)
        return x + (self.scale * self.contract(F.gelu(self.expand(self.norm(y))))).transpose(1, 2)
