"""Statistics of tokens over all ranks: sums by code, random draws and k-means."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.errors import InputError
from smalti.nn.collectives import counts_of_ranks, rows_over_ranks, sum_over_ranks
from smalti.quantizers.codebooks.base import search

APART = 0.03
"""Noise on tokens that become codes, in standard deviations of the tokens."""


def statistics(
    tokens: Float[Tensor, "g n d"], indices: Int64[Tensor, "g n"], num_codes: int
) -> tuple[Float[Tensor, "g k d"], Float[Tensor, "g k"]]:
    """Sum and number of each code's tokens over all ranks, in one reduction, excluding non-finite tokens."""
    num_codebooks, _, dim = tokens.shape
    offset = torch.arange(num_codebooks, device=tokens.device).unsqueeze(1) * num_codes
    # A sum with a non-finite value is not finite; such tokens go to an extra row that is discarded.
    rows = torch.where(tokens.sum(2).isfinite(), indices + offset, num_codebooks * num_codes).flatten()
    sums = tokens.new_zeros(num_codebooks * num_codes + 1, dim).index_add_(0, rows, tokens.flatten(0, 1))
    counts = tokens.new_zeros(len(sums)).index_add_(0, rows, tokens.new_ones(len(rows)))
    both = sum_over_ranks(torch.cat([sums, counts.unsqueeze(1)], 1)[:-1])
    both = both.view(num_codebooks, num_codes, dim + 1)
    return both[..., :-1], both[..., -1]


def draw_tokens(tokens: Float[Tensor, "g n d"], num: int, seed: int, salt: int) -> Float[Tensor, "g num d"]:
    """Draw random tokens of all ranks, with a little noise; the result is independent of the number of ranks.

    Tokens may be equal (flat regions of images), and there may be fewer tokens than codes. Codes that start
    at the same point would never separate, and would each need a float64 comparison in the search, hence the
    noise.

    Args:
        tokens: tokens of this rank.
        num: number of tokens to draw.
        seed: of the draw.
        salt: gives independent draws with the same seed.

    Raises:
        InputError: if there is no token.
    """
    rows = tokens.transpose(0, 1)
    total = sum(counts_of_ranks(len(rows), rows.device))
    if not total:
        raise InputError(
            "expected latents to initialise the codes of a codebook, received a first batch of none: train "
            "on batches of at least one item"
        )
    generator = torch.Generator().manual_seed(seed * 1_000_003 + salt)
    # Without replacement as far as possible, so that codes start at different points.
    order = torch.cat([torch.randperm(total, generator=generator) for _ in range(math.ceil(num / total))])
    drawn = rows_over_ranks(rows, order[:num].to(rows.device)).transpose(0, 1)
    drawn = torch.where(drawn.isfinite(), drawn, 0)
    noise = torch.randn(drawn.shape, generator=generator).to(drawn)
    return drawn + APART * drawn.std() * noise


def cluster(
    tokens: Float[Tensor, "g n d"], num_codes: int, iterations: int, seed: int
) -> tuple[Float[Tensor, "g k d"], Float[Tensor, "g k"]]:
    """k-means over the tokens of all ranks: the means, and the number of tokens of each."""
    codes = draw_tokens(tokens, num_codes, seed, salt=0)
    for _ in range(iterations):
        sums, counts = statistics(tokens, search(tokens, codes), num_codes)
        counts = counts.unsqueeze(2)
        codes = torch.where(counts > 0, sums / counts.clamp_min(1), codes)
    return codes, statistics(tokens, search(tokens, codes), num_codes)[1]
