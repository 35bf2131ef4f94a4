"""k-means: Lloyd's algorithm from spread centres, with the exact search of this package."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.core.errors import InputError
from smalti.quantizers.nearest import nearest_codes


@torch.no_grad()
def kmeans(
    features: Float[Tensor, "n d"], num: int, seed: int = 0, iterations: int = 30
) -> Float[Tensor, "k d"]:
    """Centres of clusters, begun by k-means++ (Arthur & Vassilvitskii 2007).

    A cluster that loses all its features keeps its centre.

    Raises:
        InputError: when there are fewer features than clusters.
    """
    if not 1 <= num <= len(features):
        raise InputError(
            f"expected from 1 to {len(features)} clusters, the number of training features, received {num}"
        )
    features = features.float()
    centres = _spread(features, num, torch.Generator().manual_seed(seed))
    for _ in range(iterations):
        codes = nearest_codes(features, centres)
        sums = torch.zeros(centres.shape, dtype=torch.float64).index_add_(0, codes, features.double())
        counts = torch.bincount(codes, minlength=num).unsqueeze(1)
        centres = torch.where(counts > 0, (sums / counts.clamp_min(1)).float(), centres)
    return centres


def _spread(features: Float[Tensor, "n d"], num: int, generator: torch.Generator) -> Float[Tensor, "k d"]:
    """k-means++: each next centre is a feature, drawn by its squared distance to the nearest one so far."""
    centres = features[torch.randint(len(features), (1,), generator=generator)]
    distances = (features - centres).square().sum(1)
    while len(centres) < num:
        # Where every feature is a centre already, any will do.
        weights = distances if distances.any() else torch.ones_like(distances)
        # Not `multinomial`, which takes at most 2^24 categories.
        total = weights.double().cumsum(0)
        point = torch.rand(1, generator=generator, dtype=torch.float64) * total[-1]
        drawn = torch.searchsorted(total, point, right=True)
        centre = features[drawn.clamp_max(len(features) - 1)]
        centres = torch.cat([centres, centre])
        distances = torch.minimum(distances, (features - centre).square().sum(1))
    return centres
