"""The straight-through estimator: quantized values forward, the latents' gradient backward."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor


def straight_through(z_e: Tensor, z_q: Tensor) -> Tensor:
    """The values of z_q, exactly, with a gradient that goes to z_e unchanged; not to be changed in place."""
    return _StraightThrough.apply(z_e, z_q.detach())


@final
class _StraightThrough(torch.autograd.Function):
    """No arithmetic: z_e + (z_q - z_e) would be rounded."""

    @staticmethod
    def forward(z_e: Tensor, z_q: Tensor) -> Tensor:
        return z_q.view_as(z_q)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
