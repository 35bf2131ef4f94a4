"""Usage and perplexity of codebooks over a whole split (a single batch would contain fewer codes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor


def counts_by_codebook(
    counts: Int64[Tensor, "g k"], codebook_ids: Sequence[int]
) -> Int64[Tensor, "codebooks k"]:
    """Sum counts over the G codes of a position that share a codebook.

    Args:
        counts: counts of each code, for each of the G codes of a position.
        codebook_ids: codebook of each of the G codes, numbered from 0.
    """
    index = torch.tensor(codebook_ids, device=counts.device)
    return counts.new_zeros(max(codebook_ids) + 1, counts.shape[1]).index_add(0, index, counts)


@final
class CodebookUse:
    """Counts the codes of a split.

    Args:
        num_codebooks: G.
        num_codes: K.
    """

    def __init__(self, num_codebooks: int, num_codes: int) -> None:
        self.counts = torch.zeros(num_codebooks, num_codes, dtype=torch.int64)
        """Number of occurrences of each code, `(G, K)`."""

    @torch.no_grad()
    def update(self, codes: Int64[Tensor, "b g *grid"]) -> None:
        """Add a batch of codes."""
        for row, of_codebook in zip(self.counts, codes.cpu().transpose(0, 1), strict=True):
            row += torch.bincount(of_codebook.flatten(), minlength=len(row))

    def compute(self) -> dict[str, float]:
        """Usage (share of codes that occur) and perplexity (exp of the entropy), averaged over codebooks."""
        perplexities = self.perplexities()
        return {
            "usage": (self.counts > 0).double().mean().item(),
            "perplexity": sum(perplexities) / len(perplexities),
        }

    def perplexities(self) -> list[float]:
        """Perplexity of each codebook."""
        p = self.counts.double() / self.counts.sum(1, keepdim=True).clamp_min(1)
        entropy = -(p * p.clamp_min(1e-300).log()).sum(1)
        return entropy.exp().tolist()

    @staticmethod
    def protocol() -> dict[str, str]:
        """Definition of each figure."""
        return {
            "usage": "share of the codes that occur in the whole split, mean over codebooks",
            "perplexity": "exp of the entropy of the codes' frequencies in the split, mean over codebooks",
        }
