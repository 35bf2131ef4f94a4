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
    """Mean and covariance of the features of a set of pictures.

    Args:
        network: maps RGB pictures in [-1, 1] to features; None for EfficientNet-Lite0.

    Attributes:
        count: number of pictures.

    Raises:
        InputError: if the package of EfficientNet-Lite0 is not installed.
    """

    def __init__(self, network: Network | None = None) -> None:
        if network is None:
            pretrained_features()
        self._network = network or _efficientnet
        self.count = 0
        self._sum: Tensor = torch.zeros(0)
        self._products: Tensor = torch.zeros(0)

    @torch.no_grad()
    def update(self, pictures: Float[Tensor, "n c h w"]) -> Float64[Tensor, "n d"]:
        """Add pictures in [-1, 1] with one or three channels, and return their features."""
        parts = pictures.float().split(AT_ONCE)
        features = torch.cat([self._network(colour(part)).double() for part in parts])
        self.add(features)
        return features

    def add(self, features: Float64[Tensor, "n d"]) -> None:
        """Add pictures whose features are known."""
        if not self.count:
            self._sum = features.new_zeros(features.shape[1])
            self._products = features.new_zeros(features.shape[1], features.shape[1])
        self.count += len(features)
        self._sum += features.sum(0)
        self._products += features.t() @ features

    @property
    def mean(self) -> Float64[Tensor, " d"]:
        """Mean of the features.

        Raises:
            InputError: for fewer than two pictures.
        """
        if self.count < 2:
            raise InputError(
                f"expected at least 2 pictures for a distance of features, received {self.count}: use more "
                "data"
            )
        return self._sum / self.count

    @property
    def covariance(self) -> Float64[Tensor, "d d"]:
        """Unbiased covariance of the features."""
        mean = self.mean
        return (self._products - self.count * torch.outer(mean, mean)) / (self.count - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Squared Frechet distance of two Gaussians (Heusel et al. 2017, equation 6).

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)); the trace of the root is the sum of the singular
    values of S_a^(1/2) S_b^(1/2).
    """
    of_a, of_b = a.covariance, b.covariance
    root = torch.linalg.svdvals(_root(of_a) @ _root(of_b)).sum()
    means = (a.mean - b.mean).square().sum()
    return float(means + of_a.trace() + of_b.trace() - 2 * root)


def _root(matrix: Float64[Tensor, "d d"]) -> Float64[Tensor, "d d"]:
    """Symmetric square root of a covariance; eigenvalues below 0 are rounding errors."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt() @ vectors.t()


def _efficientnet(pictures: Tensor) -> Tensor:
    network = pretrained_features().to(pictures.device)
    if (side := min(pictures.shape[-2:])) < LEAST_SIDE:
        size = [round(each * LEAST_SIDE / side) for each in pictures.shape[-2:]]
        pictures = F.interpolate(pictures, size, mode="bilinear")
    return network.pooled(pictures)
