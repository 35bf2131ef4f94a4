"""Exact levels: level k of L is at 2k / (L - 1) - 1 in the signal's range [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

FAR = 1e8
"""Finite substitute for infinity at the outermost bins, in units of the scale."""


def to_levels(signal: Float[Tensor, "*any"], levels: int) -> Int64[Tensor, "*any"]:
    """Map a signal in [-1, 1] to levels 0 .. levels - 1 by rounding (truncation would shift levels)."""
    return ((signal.float() + 1) * ((levels - 1) / 2)).round().clamp(0, levels - 1).long()


def from_levels(level: Tensor, levels: int) -> Float[Tensor, "*any"]:
    """Map levels 0 .. levels - 1 to a signal in [-1, 1]."""
    return level.float() * (2 / (levels - 1)) - 1


def lower_edge(level: Int64[Tensor, "*any"], levels: int) -> Float64[Tensor, "*any"]:
    """Position of the edge below each level in [-1, 1], as `bin_edges` places it."""
    return (2 * level.double() - 1) / (levels - 1) - 1


def cropped(parameters: Tensor, levels: Int64[Tensor, "b c *size"]) -> Float64[Tensor, "*any"]:
    """Parameters `(..., *size)` in float64, without those of padding beyond the first side of the levels."""
    axis = parameters.ndim - (levels.ndim - 2)
    return parameters.narrow(axis, 0, levels.shape[2]).double()


def drawn_like(draw: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw random numbers of a tensor's shape on the generator's device, so that a seed is portable."""
    source = generator.device if generator is not None else like.device
    return draw(like.shape, generator=generator, device=source).to(like.device)


def clipped_towards_range(mean: Tensor) -> Tensor:
    """Clip to [-1, 1]; where that changes a value, only gradients that move it back to the range pass.

    Clipping alone would leave values beyond the range without a gradient. With all gradients, losses that do
    not see how far beyond the range a value is would move it away without end.
    """
    return _ClippedTowardsRange.apply(mean)


class _ClippedTowardsRange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor) -> Tensor:
        ctx.save_for_backward(mean)
        return mean.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (mean,), (gradient,) = ctx.saved_tensors, gradients
        # A step goes against the gradient.
        is_away = ((mean < -1) & (gradient > 0)) | ((mean > 1) & (gradient < 0))
        return gradient.masked_fill(is_away, 0)


def bin_edges(signal: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Lower and upper edge of each element's bin, relative to the mean in units of the scale.

    The outermost bins extend (almost) to infinity for any scale, so that the masses of the levels sum to one.
    """
    half = 1 / (levels - 1)
    inverse = torch.exp(-log_scale)
    # Finite and without a gradient, because the gradient of infinity times a scale is NaN.
    lower = torch.where(signal < -1 + half, -FAR, (signal - half - mean) * inverse)
    upper = torch.where(signal > 1 - half, FAR, (signal + half - mean) * inverse)
    return lower, upper
