"""Structural similarity at each position of pictures (Wang et al. 2004, IEEE Trans. Image Process. 13(4))."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
"""Width and standard deviation of the Gaussian window, pixels."""
C1, C2 = 0.01**2, 0.03**2
"""Constants of equations 7 and 11, for intensities from 0 to 1."""


def gaussian_window() -> Float[Tensor, " size"]:
    """Weights of the window along one axis, whose sum is 1."""
    offsets = torch.arange(WINDOW) - WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    return window / window.sum()


def similarities(
    x: Float[Tensor, "n 1 h w"], y: Float[Tensor, "n 1 h w"], window: Float[Tensor, " size"]
) -> tuple[Float[Tensor, "n 1 i j"], Float[Tensor, "n 1 i j"]]:
    """Compute luminance, and contrast with structure, whose product is the similarity (section III).

    Args:
        x, y: maps with intensities from 0 to 1, in single precision or better: variances are differences.
        window: see `gaussian_window`; it lies within the maps, so that there are `WINDOW - 1` fewer positions
            along each axis.
    """
    maps = torch.cat([x, y, x * x, y * y, x * y])
    rows = F.conv2d(maps, window.view(1, 1, -1, 1))
    x_mean, y_mean, xx, yy, xy = F.conv2d(rows, window.view(1, 1, 1, -1)).chunk(5)
    covariance = xy - x_mean * y_mean
    variances = (xx - x_mean.square()) + (yy - y_mean.square())
    luminance = (2 * x_mean * y_mean + C1) / (x_mean.square() + y_mean.square() + C1)
    return luminance, (2 * covariance + C2) / (variances + C2)
