"""Rotation trick (Fifty et al. 2024, arXiv 2410.06424)."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.quantizers.estimators.base import ESTIMATORS, GradientEstimator, GradientEstimatorConfig

OPPOSITE = 1e-3
"""Length of the sum of both unit vectors below which they count as opposite: a float32 sum this small has no
more than four correct digits."""


@ESTIMATORS.register
class RotationConfig(GradientEstimatorConfig):
    """The rotation trick, without settings."""

    kind: Literal["rotation"] = "rotation"

    def build(self) -> Rotation:
        """Build the estimator."""
        return Rotation()


@final
class Rotation(GradientEstimator):
    """Treats each code as its token, rotated and scaled by a constant matrix, whose transpose maps gradients.

        e = lambda R z,  lambda = |e| / |z|,  R = I - 2 w w^T + 2 eh zh^T
        zh = z / |z|,  eh = e / |e|,  w = (zh + eh) / |zh + eh|

    Section 4 of the paper. The latents are exactly the codes. R is the rotation in the plane of z and e, so
    the angle between gradient and code becomes that between gradient and token. It is undefined for opposite
    vectors (zh = -eh) and for zeros; there the gradient passes straight through.
    """

    kind = "rotation"

    def __call__(
        self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"], training: bool
    ) -> Float[Tensor, "g n d"]:
        """Return exactly z_q, with its gradient rotated back to z_e."""
        return _Rotated.apply(z_e, z_q.detach())


@final
class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(z_e: Tensor, z_q: Tensor) -> Tensor:
        return z_q.view_as(z_q)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        z_e, z_q = ctx.saved_tensors
        return _rotated_back(gradients[0], z_e, z_q), None


def _rotated_back(
    gradient: Float[Tensor, "*n d"], z_e: Float[Tensor, "*n d"], z_q: Float[Tensor, "*n d"]
) -> Float[Tensor, "*n d"]:
    """Compute lambda R^T g, without a matrix."""
    # Products of elements and sums, which autocast does not round.
    token_norm, code_norm = z_e.norm(dim=-1, keepdim=True), z_q.norm(dim=-1, keepdim=True)
    token, code = z_e / token_norm, z_q / code_norm
    both = token + code
    square = both.square().sum(-1, keepdim=True)
    along_both = (both * gradient).sum(-1, keepdim=True)
    along_code = (code * gradient).sum(-1, keepdim=True)
    rotated = gradient - 2 * along_both / square * both + 2 * along_code * token
    # A norm of zero makes the square NaN, which is not above the limit.
    return torch.where(square > OPPOSITE**2, code_norm / token_norm * rotated, gradient)
