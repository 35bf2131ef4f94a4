"""Distances between sets of pictures in the features of a pretrained network."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from smalti.core.errors import InputError
from smalti.objectives.base import colour
from smalti.objectives.features import NAME, pretrained_features

LEAST_SIDE = 128
"""Pictures with a shorter side below this, pixels, are enlarged to it: the last features have 1/32 of it."""
PROTOCOL = (
    f"Frechet distance between Gaussians fitted to {NAME} features (1,280, input of its classifier) of two "
    f"sets of pictures, enlarged to a shorter side of at least {LEAST_SIDE} pixels (bilinear). It is not the "
    "FID, whose network is another one, and it depends on the number of pictures"
)
AT_ONCE = 32
"""Pictures in one pass through the network."""

Network = Callable[[Tensor], Tensor]
"""Maps RGB pictures `(N, 3, H, W)` in [-1, 1] to features `(N, D)`."""


@final
class FeatureStatistics:
    """Features of a set of pictures, and a Gaussian fitted to them.

    Args:
        network: maps RGB pictures in [-1, 1] to features; None for EfficientNet-Lite0.

    Raises:
        InputError: if the package of EfficientNet-Lite0 is not installed.
    """

    def __init__(self, network: Network | None = None) -> None:
        if network is None:
            pretrained_features()
        self._network = network or _efficientnet
        self._features: list[Tensor] = []

    @torch.no_grad()
    def update(self, pictures: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Add pictures in [-1, 1] with one or three channels, and return their features."""
        parts = pictures.float().split(AT_ONCE)
        features = torch.cat([self._network(colour(part)) for part in parts])
        self.add(features)
        return features

    def add(self, features: Float[Tensor, "n d"]) -> None:
        """Add pictures whose features are known."""
        self._features.append(features.detach().cpu())

    @property
    def features(self) -> Float[Tensor, "n d"]:
        """Features of all pictures, in their order, on the CPU."""
        return torch.cat(self._features)

    @property
    def count(self) -> int:
        """Number of pictures."""
        return sum(map(len, self._features))

    def gaussian(self) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "r d"]]:
        """Mean of the features, and a factor R of their unbiased covariance R^T R, with r = min(n, d) rows.

        Raises:
            InputError: for fewer than two pictures.
        """
        if self.count < 2:
            raise InputError(
                f"expected at least 2 pictures for a distance of features, received {self.count}: use more "
                "data"
            )
        features = self.features.double()
        mean = features.mean(0)
        centred = (features - mean) / (len(features) - 1) ** 0.5
        # A factor of the covariance is more exact than the matrix, whose small eigenvalues are lost.
        return mean, torch.linalg.qr(centred).R if len(centred) > centred.shape[1] else centred


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Squared Frechet distance of two Gaussians (Heusel et al. 2017, equation 6).

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)); for S = R^T R, the trace of the root is the sum of
    the singular values of R_a R_b^T.
    """
    (mean_a, root_a), (mean_b, root_b) = a.gaussian(), b.gaussian()
    common = torch.linalg.svdvals(root_a @ root_b.t()).sum()
    means = (mean_a - mean_b).square().sum()
    return float(means + root_a.square().sum() + root_b.square().sum() - 2 * common)


def _efficientnet(pictures: Tensor) -> Tensor:
    network = pretrained_features().to(pictures.device)
    if (side := min(pictures.shape[-2:])) < LEAST_SIDE:
        size = [round(each * LEAST_SIDE / side) for each in pictures.shape[-2:]]
        pictures = F.interpolate(pictures, size, mode="bilinear")
    return network.pooled(pictures)
