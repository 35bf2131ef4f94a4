"""Distortion of Gaussian vectors that no code of a rate can go below, and that of k-means."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float

from smalti.quantizers.kmeans import kmeans
from smalti.quantizers.nearest import nearest_codes

MOST_CLUSTERS = 4096
"""Largest codebook that k-means is run for."""


def gauss_markov_covariance(dimension: int, correlation: float) -> Float[np.ndarray, "n n"]:
    """Covariance of n consecutive values of a stationary Gauss-Markov process of variance 1: rho^|i - j|."""
    index = np.arange(dimension)
    # 0^0 is 1: without correlation this is the identity.
    return np.power(float(correlation), np.abs(index[:, None] - index[None, :]))


def shannon_distortion(covariance: Float[np.ndarray, "n n"], bits: float) -> float:
    """Distortion-rate function of a Gaussian vector: mean squared error of a component.

    Reverse water-filling over the eigenvalues l_i of the covariance (Cover and Thomas, Elements of
    Information Theory, section 10.3.3):

        R = sum_i max(0, log2(l_i / theta) / 2),  D = mean_i min(l_i, theta)

    Blocks of many vectors approach it; a quantizer of single vectors stays above it.

    Args:
        covariance: positive definite.
        bits: R, of a vector.
    """
    eigenvalues = np.sort(np.linalg.eigvalsh(covariance))[::-1]
    for used in range(len(eigenvalues), 0, -1):
        # With the `used` largest components above the water: sum log2(l_i) / 2 - used log2(theta) / 2 = R.
        level = 2 ** ((np.log2(eigenvalues[:used]).sum() - 2 * bits) / used)
        if level <= eigenvalues[used - 1]:
            return float((used * level + eigenvalues[used:].sum()) / len(eigenvalues))
    return float(eigenvalues.mean())


def lloyd_distortion(
    train: Float[torch.Tensor, "n d"], test: Float[torch.Tensor, "m d"], bits: float
) -> float | None:
    """Mean squared error of a component of test vectors under k-means of training vectors.

    Returns:
        None if the codebook of 2^bits codes would exceed `MOST_CLUSTERS` or the number of vectors.
    """
    num = round(2**bits)
    if not 1 <= num <= min(MOST_CLUSTERS, len(train)):
        return None
    centres = kmeans(train, num)
    return (test - centres[nearest_codes(test, centres)]).square().mean().item()


def decibels(ratio: float) -> float:
    """10 log10 of a ratio of squared errors."""
    return 10 * math.log10(ratio)
