"""The interface of codebooks, and the two operations that all of them share: search and look-up."""

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
    """G codebooks of K codes of dimension D in float32, and the rule by which they learn."""

    kind: str = ""
    """Its name in tables: the `kind` of its config."""
    codes: Tensor
    """float32 `(G, K, D)`."""

    @abstractmethod
    def prepare(self, tokens: Float[Tensor, "g n d"]) -> None:
        """See the tokens of a training batch before they are searched."""

    @abstractmethod
    def loss(self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"]) -> Float[Tensor, ""] | None:
        """The codebook's own loss, or None if it has none."""

    @abstractmethod
    def look_up(self, indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
        """The code of each index."""

    @abstractmethod
    def learn(self, tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"]) -> None:
        """Learn from a training batch's tokens and the codes that were chosen for them."""


class CodebookConfig(Configuration):
    """Settings of a codebook."""

    def build(self, num_codebooks: int, num_codes: int, code_dim: int) -> Codebook:
        """The untrained codebook.

        Args:
            num_codebooks: G.
            num_codes: K, codes in each codebook.
            code_dim: D, dimension of a code.
        """
        raise NotImplementedError


CODEBOOKS = Registry("codebook", CodebookConfig, "smalti.quantizers.codebooks")

AnyCodebook = Annotated[CodebookConfig, CODEBOOKS]


def codebook_config(codebook: str | CodebookConfig) -> CodebookConfig:
    """The settings of a codebook that is given by its kind, such as "ema", or by its settings.

    Raises:
        InputError: for an unknown kind.
    """
    return CODEBOOKS.get(codebook)() if isinstance(codebook, str) else codebook


def search(tokens: Float[Tensor, "g n d"], codes: Float[Tensor, "g k d"]) -> Int64[Tensor, "g n"]:
    """The nearest code of each token, each codebook by itself."""
    return torch.stack([nearest_codes(t, c) for t, c in zip(tokens, codes, strict=True)])


def look_up(codes: Float[Tensor, "g k d"], indices: Int64[Tensor, "g n"]) -> Float[Tensor, "g n d"]:
    """The code of each index, each codebook by itself."""
    num_codebooks, num_codes, _ = codes.shape
    offset = torch.arange(num_codebooks, device=indices.device).unsqueeze(1) * num_codes
    return embedding(indices + offset, codes.flatten(0, 1))
