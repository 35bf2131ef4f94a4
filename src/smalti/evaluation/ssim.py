"""Structural similarity of pictures (Wang et al. 2004, doi:10.1109/TIP.2003.819861)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

WINDOW = 11
SIGMA = 1.5
LUMINANCE, CONTRAST = 0.01**2, 0.03**2
"""C1 and C2 of equation 13, for a data range of 1."""


def structural_similarity(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]) -> Float64[Tensor, " n"]:
    """SSIM of each pair of pictures: equation 13, averaged over pixels and channels.

    Statistics are local, under a Gaussian window 11x11 of standard deviation 1.5; pictures are reflected at
    their borders. Computed in float64: variances are differences of squares.

    Args:
        x: in [0, 1], with sides of at least 6 pixels.
        y: likewise.
    """
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=x.device) - WINDOW // 2
    window = torch.exp(-((offsets / SIGMA) ** 2) / 2)
    window = (window / window.sum()).view(1, 1, 1, WINDOW)
    pad = [WINDOW // 2] * 4
    a, b = (F.pad(each.double(), pad, mode="reflect").flatten(0, 1).unsqueeze(1) for each in (x, y))
    # The window is a product of one along each axis.
    means = [F.conv2d(F.conv2d(each, window), window.transpose(2, 3)) for each in (a, b, a * a, b * b, a * b)]
    mean_a, mean_b = means[:2]
    variances = means[2] - mean_a**2 + means[3] - mean_b**2
    covariance = means[4] - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + LUMINANCE) / (mean_a**2 + mean_b**2 + LUMINANCE)
    contrast = (2 * covariance + CONTRAST) / (variances + CONTRAST)
    return (luminance * contrast).view(len(x), -1).mean(1)
