"""Interface of codebooks, with the two operations they share: search and look-up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding

from smalti.core.config import Configuration
from smalti.core.registry import Registry
from smalti.quantizers.nearest import nearest_codes


class Codebook(nn.Module, ABC):
    """G codebooks of K codes of dimension D in float32, with an update rule."""

    kind: str = ""
    """Name in tables: the `kind` of its config."""
    codes: Tensor
    """Code vectors, float32 `(G, K, D)`."""

    @abstractmethod
    def prepare(self, tokens: Float[Tensor, "g n d"]) -> None:
        """Process the tokens of a training batch before the search."""

    @abstractmethod
    def loss(self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"]) -> Float[Tensor, ""] | None:
        """Loss of the codebook, or None if it has none."""

    @abstractmethod
    def look_up(self, indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
        """Look up the code of each index."""

    @abstractmethod
    def learn(self, tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"]) -> None:
        """Update the codes from a training batch's tokens and their nearest codes."""


class CodebookConfig(Configuration):
    """Settings of a codebook."""

    @abstractmethod
    def build(self, num_codebooks: int, num_codes: int, code_dim: int) -> Codebook:
        """Build the untrained codebook.

        Args:
            num_codebooks: G.
            num_codes: K, codes in each codebook.
            code_dim: D, dimension of a code.
        """


CODEBOOKS = Registry("codebook", CodebookConfig, "smalti.quantizers.codebooks")

AnyCodebook = Annotated[CodebookConfig, CODEBOOKS]


def codebook_config(codebook: str | CodebookConfig) -> CodebookConfig:
    """Codebook config from a kind, such as "ema", or a config, which is returned unchanged.

    Raises:
        InputError: for an unknown kind.
    """
    return CODEBOOKS.get(codebook)() if isinstance(codebook, str) else codebook


def search(tokens: Float[Tensor, "g n d"], codes: Float[Tensor, "g k d"]) -> Int64[Tensor, "g n"]:
    """Index of the nearest code of each token, for each codebook."""
    return torch.stack([nearest_codes(t, c) for t, c in zip(tokens, codes, strict=True)])


def look_up(codes: Float[Tensor, "g k d"], indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
    """Look up the code of each index, for each codebook; float32 for codes of any type."""
    num_codebooks, num_codes, _ = codes.shape
    offset = torch.arange(num_codebooks, device=indices.device).unsqueeze(1) * num_codes
    return embedding(indices + offset, codes.float().flatten(0, 1))
