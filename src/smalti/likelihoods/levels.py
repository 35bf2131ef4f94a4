"""Exact levels: level k of L lies at 2k / (L - 1) - 1 in the signal's range [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

FAR = 1e8
"""Stands for infinity at the outermost bins, in units of the scale."""


def to_levels(signal: Float[Tensor, "*any"], levels: int) -> Int64[Tensor, "*any"]:
    """Signal in [-1, 1] -> level 0 .. levels - 1, exactly (rounded: truncation would shift classes)."""
    return ((signal.float() + 1) * ((levels - 1) / 2)).round().clamp(0, levels - 1).long()


def from_levels(level: Tensor, levels: int) -> Float[Tensor, "*any"]:
    """Level 0 .. levels - 1 -> signal in [-1, 1]."""
    return level.float() * (2 / (levels - 1)) - 1


def drawn_like(draw: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Random numbers of a tensor's shape, made where the generator is: a seed's are the same everywhere."""
    source = generator.device if generator is not None else like.device
    return draw(like.shape, generator=generator, device=source).to(like.device)


def bin_edges(signal: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Lower and upper edge of each element's bin, from the mean in units of the scale.

    The outermost bins reach (all but) to infinity, whatever the scale: the levels' masses sum to one.
    """
    half = 1 / (levels - 1)
    inverse = torch.exp(-log_scale)
    # Finite and without a gradient, because that of infinity times a scale is not a number.
    lower = torch.where(signal < -1 + half, -FAR, (signal - half - mean) * inverse)
    upper = torch.where(signal > 1 - half, FAR, (signal + half - mean) * inverse)
    return lower, upper
