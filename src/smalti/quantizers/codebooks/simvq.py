"""SimVQ (Zhu et al. 2024, arXiv 2411.02038): all codes move together, by one learned linear map."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from smalti.quantizers.codebooks.base import CODEBOOKS, Codebook, CodebookConfig, look_up


@CODEBOOKS.register
class SimVQCodebookConfig(CodebookConfig):
    """Settings of a codebook that is a learned linear map of fixed random vectors."""

    kind: Literal["simvq"] = "simvq"

    def build(self, num_codebooks: int, num_codes: int, code_dim: int) -> SimVQCodebook:
        """Build the untrained codebook."""
        return SimVQCodebook(num_codebooks, num_codes, code_dim)


@final
class SimVQCodebook(Codebook):
    """Codes E W, with a fixed basis E `(K, D)` and a learned matrix W `(D, D)`, trained by |sg[z_e] - e|^2.

        E ~ N(0, 1 / D),  W_ij ~ U(-1 / sqrt(D), 1 / sqrt(D)) at first

    Section 4 of the paper. The gradient of each chosen code moves W, and with it all codes, so that codes
    which were never chosen follow the tokens. It does so in the directions of chosen codes only: for tokens
    that are all much shorter than the codes, few codes are ever chosen. The basis is a buffer and is saved
    with the weights.

    Args:
        num_codebooks: G.
        num_codes: K, codes in each codebook.
        code_dim: D, dimension of a code.
    """

    kind = "simvq"
    basis: Tensor

    def __init__(self, num_codebooks: int, num_codes: int, code_dim: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(code_dim)
        self.register_buffer("basis", bound * torch.randn(num_codebooks, num_codes, code_dim))
        self.weight = nn.Parameter(torch.empty(num_codebooks, code_dim, code_dim).uniform_(-bound, bound))

    @property
    def codes(self) -> Float[Tensor, "g k d"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Code vectors E W, float32 `(G, K, D)`, with a gradient for W."""
        # In float64, which neither autocast nor TF32 rounds.
        return torch.bmm(self.basis.double(), self.weight.double()).float()

    def prepare(self, tokens: Float[Tensor, "g n d"]) -> None:
        """Does nothing."""

    def loss(self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"]) -> Float[Tensor, ""]:
        """|sg[z_e] - e|^2, averaged over elements."""
        return (z_e.detach() - z_q).square().mean()

    def look_up(self, indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
        """Look up the code of each index, with a gradient for W."""
        # From the product of all codes, so that rounding depends on no batch.
        return look_up(self.codes, indices)

    def learn(self, tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"]) -> None:
        """Does nothing: the optimizer updates W."""
