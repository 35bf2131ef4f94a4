"""Usage and perplexity of codebooks over a whole split (a single batch would contain fewer codes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.nn.symbols import MOST_CODES


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
        num_codes: K. With more than `MOST_CODES`, only the codes that occur are counted.
    """

    def __init__(self, num_codebooks: int, num_codes: int) -> None:
        self.num_codes = num_codes
        is_table = num_codes <= MOST_CODES
        self.counts = torch.zeros(num_codebooks, num_codes, dtype=torch.int64) if is_table else None
        """Number of occurrences of each code, `(G, K)`; None if K is too large for a table."""
        none = torch.zeros(0, dtype=torch.int64)
        self._seen: list[tuple[Tensor, Tensor]] = [] if is_table else [(none, none)] * num_codebooks

    @torch.no_grad()
    def update(self, codes: Int64[Tensor, "b g *grid"]) -> None:
        """Add a batch of codes."""
        rows = codes.cpu().transpose(0, 1).flatten(1)
        if self.counts is None:
            self._seen = [
                _added(seen, torch.unique(row, return_counts=True))
                for seen, row in zip(self._seen, rows, strict=True)
            ]
            return
        for counts, row in zip(self.counts, rows, strict=True):
            counts += torch.bincount(row, minlength=self.num_codes)

    def merge(self, codebook_ids: Sequence[int]) -> None:
        """Sum the counts of the codes of a position that share a codebook, see `counts_by_codebook`."""
        if self.counts is not None:
            self.counts = counts_by_codebook(self.counts, codebook_ids)
            return
        merged: dict[int, tuple[Tensor, Tensor]] = {}
        for index, seen in zip(codebook_ids, self._seen, strict=True):
            merged[index] = _added(merged[index], seen) if index in merged else seen
        self._seen = [merged[index] for index in sorted(merged)]

    def compute(self) -> dict[str, float]:
        """Usage (share of codes that occur) and perplexity (exp of the entropy), averaged over codebooks."""
        used = [(counts > 0).sum().item() / self.num_codes for counts in self._rows()]
        perplexities = self.perplexities()
        return {
            "usage": sum(used) / len(used),
            "perplexity": sum(perplexities) / len(perplexities),
        }

    def perplexities(self) -> list[float]:
        """Perplexity of each codebook."""
        perplexities = []
        for counts in self._rows():
            p = counts.double() / counts.sum().clamp_min(1)
            perplexities.append((-(p * p.clamp_min(1e-300).log()).sum()).exp().item())
        return perplexities

    def _rows(self) -> list[Tensor]:
        """Counts of each codebook, of all codes or of those that occur."""
        return [counts for _, counts in self._seen] if self.counts is None else list(self.counts)

    @staticmethod
    def protocol() -> dict[str, str]:
        """Definition of each figure."""
        return {
            "usage": "share of the codes that occur in the whole split, mean over codebooks",
            "perplexity": "exp of the entropy of the codes' frequencies in the split, mean over codebooks",
        }


def _added(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Add the counts of distinct codes."""
    codes, index = torch.unique(torch.cat((one[0], other[0])), return_inverse=True)
    return codes, torch.zeros_like(codes).index_add(0, index, torch.cat((one[1], other[1])))
