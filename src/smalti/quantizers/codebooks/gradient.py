"""The paper's codebook: a parameter trained by the gradient of a loss, without extras."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from smalti.quantizers.codebooks.base import CODEBOOKS, Codebook, CodebookConfig, look_up


@CODEBOOKS.register
class GradientCodebookConfig(CodebookConfig):
    """Settings of the paper's codebook loss without extras; van den Oord et al. 2017, equation 3."""

    kind: Literal["gradient"] = "gradient"

    def build(self, num_codebooks: int, num_codes: int, code_dim: int) -> GradientCodebook:
        """Build the untrained codebook."""
        return GradientCodebook(num_codebooks, num_codes, code_dim)


@final
class GradientCodebook(Codebook):
    """A parameter trained by the gradient of |sg[z_e] - e|^2.

    Initialised uniformly in +-sqrt(3/D), the fan-in scaling of the authors' published code.

    Args:
        num_codebooks: G.
        num_codes: K, codes in each codebook.
        code_dim: D, dimension of a code.
    """

    kind = "gradient"

    def __init__(self, num_codebooks: int, num_codes: int, code_dim: int) -> None:
        super().__init__()
        bound = math.sqrt(3 / code_dim)
        self.codes = nn.Parameter(torch.empty(num_codebooks, num_codes, code_dim).uniform_(-bound, bound))

    def prepare(self, tokens: Float[Tensor, "g n d"]) -> None:
        """Does nothing."""

    def loss(self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"]) -> Float[Tensor, ""]:
        """|sg[z_e] - e|^2, averaged over elements."""
        return (z_e.detach() - z_q).square().mean()

    def look_up(self, indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
        """Look up the code of each index, with a gradient for the codes."""
        return look_up(self.codes, indices)

    def learn(self, tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"]) -> None:
        """Does nothing: the optimizer updates the codes."""
