"""Accuracy of the paper's approximation ln p(x) ~ ln p(x|z) + ln p(z) at the encoder's codes z.

The right side is one term of the sum over all codes, and so a lower bound. Adding the terms of grids that
differ from z at one position keeps it a lower bound, and the gain measures what the single term misses.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.models import Autoencoder
from smalti.core.priors import DensityPrior
from smalti.core.units import bits_per_dim, sum_over_items
from smalti.quantizers.codebooks.base import search
from smalti.quantizers.vq import VectorQuantizer

AT_ONCE = 2**26
"""Maximum number of likelihood parameters in memory, counting one per level and dimension."""


@torch.no_grad()
def with_swaps(
    autoencoder: Autoencoder,
    priors: Sequence[DensityPrior],
    batches: Iterable[Batch],
    neighbours: Callable[[Tensor], Int64[Tensor, "m b g *grid"]],
) -> dict[str, Float64[Tensor, "items m1"]]:
    """Compute bits/dim from the single term, and from sums that add more and more neighbouring codes.

    Args:
        autoencoder: the model that gives codes and likelihood.
        priors: the priors to evaluate, not conditioned on classes.
        batches: batches of signals.
        neighbours: returns the next-nearest codes at each position of a signal's codes, nearest first.

    Returns:
        For each prior the bits/dim of each item: entry m adds the grids that replace one code by one of its
        first m neighbours.

    Raises:
        InputError: when a neighbour equals the code or another neighbour, so that its term would count twice.
    """
    bounds: dict[str, list[Tensor]] = {prior.name: [] for prior in priors}
    for batch in batches:
        codes = autoencoder.encode(batch.data)
        grids = torch.cat([codes.unsqueeze(0), neighbours(batch.data)])
        if any((one == other).any() for one, other in itertools.combinations(grids, 2)):
            raise InputError(
                "expected neighbours that differ from the code and from each other, received equal"
            )
        for item, signal in enumerate(batch.data.split(1)):
            for name, terms in _terms(autoencoder, priors, signal, grids[0, [item]], grids[1:, item]).items():
                bounds[name].append(
                    torch.stack([terms[: m + 1].logsumexp((0, 1)) for m in range(len(terms))])
                )
    dims = autoencoder.signal.dims
    return {name: bits_per_dim(-torch.stack(items).cpu(), dims) for name, items in bounds.items()}


@torch.no_grad()
def next_nearest(
    latents: Float[Tensor, "b d *grid"], quantizer: VectorQuantizer, num: int
) -> Int64[Tensor, "num b g *grid"]:
    """Find the next-nearest codes at each position, in order of distance, without the nearest code.

    Args:
        latents: latents of an encoder.
        quantizer: the quantizer that holds the codes.
        num: number of codes per position, at most K - 1.

    Raises:
        InputError: when the codebook has too few codes.
    """
    if not 0 < num < quantizer.num_codes:
        raise InputError(
            f"expected from 1 to {quantizer.num_codes - 1} neighbours of a code, received {num}: lower "
            "the number"
        )
    layout, matching = quantizer.layout, quantizer.matching
    tokens = matching.tokens(layout.tokens(latents, quantizer.num_codebooks))
    tokens, codes = matching.compared(tokens, quantizer.codebook.codes.detach())
    distances = torch.cdist(tokens, codes)
    # `cdist` rounds and the search is exact: the code found by the search always comes first.
    distances.scatter_(2, search(tokens, codes).unsqueeze(2), torch.inf)
    order = distances.topk(num, dim=2, largest=False).indices
    return torch.stack([layout.codes(indices, layout.places(latents)) for indices in order.unbind(2)])


def _terms(
    autoencoder: Autoencoder,
    priors: Sequence[DensityPrior],
    signal: Float[Tensor, "1 c *size"],
    codes: Int64[Tensor, "1 g *grid"],
    neighbours: Int64[Tensor, "m g *grid"],
) -> dict[str, Float[Tensor, "m1 n"]]:
    """Compute ln p(x|z') + ln p(z') of one item: row 0 for z, row m for grids with one m-th neighbour."""
    places = codes.numel()
    swapped = codes.flatten().repeat(len(neighbours), places, 1)
    at = torch.arange(places, device=codes.device)
    swapped[:, at, at] = neighbours.flatten(1)
    grids = torch.cat([codes, swapped.view(-1, *codes.shape[1:])])
    at_once = max(1, AT_ONCE // (autoencoder.signal.dims * autoencoder.signal.levels))
    log_prob = torch.cat([_log_likelihood(autoencoder, signal, part) for part in grids.split(at_once)])
    result = {}
    for prior in priors:
        rates = torch.cat([prior.log_prob(part, Conditions()) for part in grids.split(at_once)])
        terms = (log_prob + rates).double()
        first = torch.full((1, places), -torch.inf, dtype=terms.dtype, device=terms.device)
        first[0, 0] = terms[0]
        result[prior.name] = torch.cat([first, terms[1:].view(len(neighbours), places)])
    return result


def _log_likelihood(
    autoencoder: Autoencoder, signal: Float[Tensor, "1 c *size"], codes: Int64[Tensor, "b g *grid"]
) -> Float[Tensor, " b"]:
    repeated = signal.expand(len(codes), *signal.shape[1:])
    return sum_over_items(autoencoder.likelihood(codes).log_prob(repeated))
