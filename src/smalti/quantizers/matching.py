"""Nearest code of each token: by Euclidean distance, or by cosine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.quantizers.codebooks.base import Codebook, look_up, search

Normalize = Literal["none", "codes", "search"]

SHORTEST = 1e-6
"""Length below which a vector has no direction and is left as it is."""


@final
@dataclass(frozen=True)
class Matching:
    """Comparison of tokens with codes.

    Among unit vectors, the nearest by Euclidean distance is the nearest by cosine.

    Attributes:
        normalize: "none": Euclidean distance. "codes": tokens and codes are unit vectors, for the search, the
            loss and the decoder (ViT-VQGAN, Yu et al. 2021, arXiv 2110.04627, section 3.2). "search": unit
            vectors for the search only, so that codes keep a length (DAC, Kumar et al. 2023, arXiv
            2306.06546, section 3.2).
    """

    normalize: Normalize = "none"

    @property
    def title_suffix(self) -> str:
        """End of a quantizer's display name; empty for the Euclidean distance."""
        return {"none": "", "codes": ", unit codes", "search": ", cosine search"}[self.normalize]

    def tokens(self, tokens: Float[Tensor, "g n d"]) -> Float[Tensor, "g n d"]:
        """Convert latents of the encoder to the tokens that codes replace."""
        return unit(tokens) if self.normalize == "codes" else tokens

    def compared(
        self, tokens: Float[Tensor, "g n d"], codes: Float[Tensor, "g k d"]
    ) -> tuple[Float[Tensor, "g n d"], Float[Tensor, "g k d"]]:
        """Convert tokens and codes to the vectors whose distances the search compares."""
        if self.normalize == "none":
            return tokens, codes
        return tokens if self.normalize == "codes" else unit(tokens), unit(codes.float())

    def search(self, tokens: Float[Tensor, "g n d"], codebook: Codebook) -> Int64[Tensor, "g n"]:
        """Index of the nearest code of each token."""
        return search(*self.compared(tokens.detach(), codebook.codes.detach()))

    def look_up(self, indices: Int64[Tensor, "g n"], codebook: Codebook) -> Float[Tensor, "g n d"]:
        """Code of each index."""
        if self.normalize != "codes":
            return codebook.look_up(indices)
        # All codes are normalised, and not only the chosen ones, so that rounding depends on no batch.
        num_codebooks, num_codes, _ = codebook.codes.shape
        every = torch.arange(num_codes, device=indices.device).expand(num_codebooks, -1)
        return look_up(unit(codebook.look_up(every)), indices)


def unit(vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Scale vectors to length 1; those that are shorter than 1e-6 are left as they are."""
    # Not the root of a sum, whose gradient at zero is not finite.
    length = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(length > SHORTEST, length, 1)
