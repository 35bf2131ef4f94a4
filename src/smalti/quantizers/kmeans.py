"""k-means: Lloyd's algorithm with k-means++ initialisation and exact nearest-code search."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.core.errors import InputError
from smalti.nn.symbols import check_tensor
from smalti.quantizers.nearest import nearest_codes


@torch.no_grad()
def kmeans(
    features: Float[Tensor, "n d"], num: int, seed: int = 0, iterations: int = 30
) -> Float[Tensor, "k d"]:
    """Cluster centres by Lloyd's algorithm, initialised by k-means++ (Arthur & Vassilvitskii 2007).

    A cluster without features keeps its centre.

    Raises:
        InputError: if there are fewer features than clusters, or features that are not finite.
    """
    check_tensor(features, "features")
    if not 1 <= num <= len(features):
        raise InputError(
            f"expected from 1 to {len(features)} clusters, the number of features, received {num}: "
            "use fewer clusters or more data"
        )
    features = features.float()
    if not features.isfinite().all():
        raise InputError(
            "expected finite features, received some that are not: remove NaN and infinity, and check their "
            "scale"
        )
    centres = _initial_centres(features, num, torch.Generator().manual_seed(seed))
    for _ in range(iterations):
        codes = nearest_codes(features, centres)
        sums = torch.zeros(centres.shape, dtype=torch.float64).index_add_(0, codes, features.double())
        counts = torch.bincount(codes, minlength=num).unsqueeze(1)
        centres = torch.where(counts > 0, (sums / counts.clamp_min(1)).float(), centres)
    return centres


def _initial_centres(
    features: Float[Tensor, "n d"], num: int, generator: torch.Generator
) -> Float[Tensor, "k d"]:
    """k-means++: draw each next centre among the features with probability proportional to its squared
    distance to the nearest centre so far."""
    centres = features[torch.randint(len(features), (1,), generator=generator)]
    distances = (features - centres).square().sum(1)
    while len(centres) < num:
        # If every feature is already a centre, draw uniformly.
        weights = distances if distances.any() else torch.ones_like(distances)
        # Not `multinomial`, which is limited to 2^24 categories.
        total = weights.double().cumsum(0)
        point = torch.rand(1, generator=generator, dtype=torch.float64) * total[-1]
        drawn = torch.searchsorted(total, point, right=True)
        centre = features[drawn.clamp_max(len(features) - 1)]
        centres = torch.cat([centres, centre])
        distances = torch.minimum(distances, (features - centre).square().sum(1))
    return centres
