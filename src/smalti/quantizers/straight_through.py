"""Straight-through estimator: quantized values forward, the gradient of the latents backward."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor


def straight_through(z_e: Tensor, z_q: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Return exactly z_q, with its gradient passed to z_e; do not modify the result in place.

    Args:
        z_e: receives the gradient.
        z_q: values.
        scale: factor of the gradient, which broadcasts to z_e.
    """
    return _StraightThrough.apply(z_e, z_q.detach(), scale)


@final
class _StraightThrough(torch.autograd.Function):
    """Uses no arithmetic, because z_e + (z_q - z_e) would be rounded."""

    @staticmethod
    def forward(z_e: Tensor, z_q: Tensor, scale: float | Tensor) -> Tensor:
        return z_q.view_as(z_q)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float | Tensor], output: Tensor) -> None:
        scale = inputs[2]
        ctx.scale = None if isinstance(scale, Tensor) else scale
        ctx.save_for_backward(*([scale] if isinstance(scale, Tensor) else []))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        if ctx.scale == 1:
            return gradients[0], None, None
        scale = ctx.saved_tensors[0] if ctx.scale is None else ctx.scale
        return gradients[0] * scale, None, None
