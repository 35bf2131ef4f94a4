"""Frozen codebook, for an encoder that is frozen as well."""

from __future__ import annotations

from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.errors import InputError
from smalti.nn.symbols import check_tensor
from smalti.quantizers.codebooks.base import CODEBOOKS, Codebook, CodebookConfig, look_up


@CODEBOOKS.register
class FrozenCodebookConfig(CodebookConfig):
    """Settings of a codebook that is set once, from all training data, and never updated."""

    kind: Literal["frozen"] = "frozen"

    def build(self, num_codebooks: int, num_codes: int, code_dim: int) -> FrozenCodebook:
        """Build the codebook with random codes; call `set` to assign them."""
        return FrozenCodebook(num_codebooks, num_codes, code_dim)


@final
class FrozenCodebook(Codebook):
    """Codes that are never updated; `set` assigns their values.

    Args:
        num_codebooks: G.
        num_codes: K, codes in each codebook.
        code_dim: D, dimension of a code.
    """

    kind = "frozen"

    def __init__(self, num_codebooks: int, num_codes: int, code_dim: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randn(num_codebooks, num_codes, code_dim))

    @torch.no_grad()
    def set(self, codes: Float[Tensor, "g k d"]) -> None:
        """Assign the codes, for example k-means centres.

        Raises:
            InputError: for another shape, or codes that are not finite.
        """
        check_tensor(codes, "codes")
        if codes.shape != self.codes.shape:
            raise InputError(
                f"expected codes of shape {tuple(self.codes.shape)}, received {tuple(codes.shape)}: pass all "
                "codes of all codebooks"
            )
        if not codes.isfinite().all():
            raise InputError("expected finite codes, received some that are not: remove NaN and infinity")
        self.codes.copy_(codes)

    def prepare(self, tokens: Float[Tensor, "g n d"]) -> None:
        """Does nothing."""

    def loss(self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"]) -> None:
        """None: the codes do not change."""
        return None

    def look_up(self, indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
        """Look up the code of each index."""
        return look_up(self.codes, indices)

    def learn(self, tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"]) -> None:
        """Does nothing."""
