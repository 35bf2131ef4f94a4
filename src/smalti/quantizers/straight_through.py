"""Straight-through estimator: quantized values forward, the gradient of the latents backward."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor


def straight_through(z_e: Tensor, z_q: Tensor) -> Tensor:
    """Return exactly z_q, with its gradient passed to z_e unchanged; do not modify the result in place."""
    return _StraightThrough.apply(z_e, z_q.detach())


@final
class _StraightThrough(torch.autograd.Function):
    """Uses no arithmetic, because z_e + (z_q - z_e) would be rounded."""

    @staticmethod
    def forward(z_e: Tensor, z_q: Tensor) -> Tensor:
        return z_q.view_as(z_q)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Saves nothing for the backward pass."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
