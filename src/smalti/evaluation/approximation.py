"""How good the paper's approximation ln p(x) ~ ln p(x|z) + ln p(z) is, at the encoder's codes z.

The right side is one term of the sum over all codes, and so a lower bound. Here the terms of grids that
differ from z at one place are added to it: the sum stays a lower bound, and what it gains is what the one
term missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.interfaces import Autoencoder, Batch, Conditions, Prior

AT_ONCE = 512
"""Grids that are decoded together."""


@torch.no_grad()
def with_swaps(
    autoencoder: Autoencoder,
    priors: Sequence[Prior],
    batches: Iterable[tuple[Batch, Int64[Tensor, "m b g *grid"]]],
) -> dict[str, list[float]]:
    """Bits/dim from the one term, and from sums over ever more neighbours of it.

    Args:
        autoencoder: whose codes and likelihood.
        priors: by each of which it is measured, without being told classes.
        batches: signals, and for each place its next-nearest codes, nearest first.

    Returns:
        For each prior bits/dim, averaged over items: entry m is with the first m neighbours of every place,
        one of them at a time.
    """
    sums: dict[str, Tensor] = {}
    num = 0
    for batch, neighbours in batches:
        for signal, codes, others in zip(
            batch.data.split(1),
            autoencoder.encode(batch.data).split(1),
            neighbours.split(1, dim=1),
            strict=True,
        ):
            for name, terms in _terms(autoencoder, priors, signal, codes, others.squeeze(1)).items():
                bound = torch.stack([terms[: m + 1].flatten().logsumexp(0) for m in range(len(terms))])
                sums[name] = sums.get(name, torch.zeros_like(bound)) + bound
            num += 1
    to_bits = 1 / (autoencoder.signal.dims * math.log(2) * num)
    return {name: (-total * to_bits).tolist() for name, total in sums.items()}


def _terms(
    autoencoder: Autoencoder,
    priors: Sequence[Prior],
    signal: Float[Tensor, "1 c *size"],
    codes: Int64[Tensor, "1 g *grid"],
    neighbours: Int64[Tensor, "m g *grid"],
) -> dict[str, Float[Tensor, "m1 n"]]:
    """ln p(x|z') + ln p(z') of one item: row 0 has z itself, row m all grids with one m-th neighbour."""
    places = codes.numel()
    swapped = codes.flatten().repeat(len(neighbours), places, 1)
    at = torch.arange(places, device=codes.device)
    swapped[:, at, at] = neighbours.flatten(1)
    grids = torch.cat([codes, swapped.view(-1, *codes.shape[1:])])
    log_prob = torch.cat([_distortions(autoencoder, signal, part) for part in grids.split(AT_ONCE)])
    result = {}
    for prior in priors:
        rates = torch.cat([prior.log_prob(part, Conditions()) for part in grids.split(AT_ONCE)])
        terms = (log_prob + rates).double()
        first = torch.full((1, places), -torch.inf, dtype=terms.dtype, device=terms.device)
        first[0, 0] = terms[0]
        result[prior.name] = torch.cat([first, terms[1:].view(len(neighbours), places)])
    return result


def _distortions(
    autoencoder: Autoencoder, signal: Float[Tensor, "1 c *size"], codes: Int64[Tensor, "b g *grid"]
) -> Float[Tensor, " b"]:
    repeated = signal.expand(len(codes), *signal.shape[1:])
    return autoencoder.likelihood(codes).log_prob(repeated).flatten(1).sum(1)
