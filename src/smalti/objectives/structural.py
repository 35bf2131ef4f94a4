"""Multi-scale structural similarity of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.nn.ssim import WINDOW, gaussian_window, similarities
from smalti.objectives.base import TERMS, Term, TermConfig, check_pictures, pictures

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, finest first (Wang et al. 2003, section 3.2)."""
LEAST = 1e-3
"""Least similarity of a scale: powers of a negative one are undefined, and near 0 their slope is infinite."""


@final
class MultiScaleSSIM(Term):
    """1 - MS-SSIM (Wang et al. 2003), over as many of its five scales as the pictures have room for.

    Windows lie within the picture. The exponents of fewer scales are divided by their sum, so that they too
    sum to one.

    Args:
        weight: factor of the term in the objective.
        start: first training step with the term, counted from 0.
    """

    def __init__(self, weight: float = 1.0, start: int = 0) -> None:
        super().__init__(weight, start)
        self.register_buffer("window", gaussian_window(), persistent=False)

    window: Tensor

    def forward(
        self, reconstruction: Float[Tensor, "b c *size"], signal: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, ""]:
        """1 - MS-SSIM, averaged over the channels of all pictures or frames.

        Raises:
            InputError: for pictures with a side below 11 pixels.
        """
        weights = scale_weights(min(signal.shape[-2:]))
        # Variances are differences of means, which autocast would round away.
        with torch.autocast(signal.device.type, enabled=False):
            return 1 - self._similarity(_intensities(reconstruction), _intensities(signal), weights).mean()

    def _similarity(self, x: Tensor, y: Tensor, weights: Sequence[float]) -> Float[Tensor, " n"]:
        """MS-SSIM of maps `(N, 1, H, W)` with intensities from 0 to 1."""
        similarity = torch.ones_like(x[:, 0, 0, 0])
        for scale, weight in enumerate(weights):
            if scale:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            luminance, structure = similarities(x, y, self.window)
            # The luminance counts at the coarsest scale alone (equation 7).
            of_scale = (luminance * structure if scale == len(weights) - 1 else structure).flatten(1).mean(1)
            similarity = similarity * of_scale.clamp_min(LEAST) ** weight
        return similarity


def _intensities(signal: Tensor) -> Float[Tensor, "n 1 h w"]:
    """Each channel of pictures in [-1, 1] as a map of values from 0 to 1: luminance has a zero."""
    return (pictures(signal).float().flatten(0, 1).unsqueeze(1) + 1) / 2


def scale_weights(side: int) -> tuple[float, ...]:
    """Exponents of the scales that pictures with this shorter side have room for.

    Raises:
        InputError: if the side is shorter than a window.
    """
    if side < WINDOW:
        raise InputError(
            f"expected pictures of at least {WINDOW} pixels a side for the term ms-ssim, received {side}: "
            "leave out the term"
        )
    num = sum(side // 2**scale >= WINDOW for scale in range(len(SCALE_WEIGHTS)))
    total = sum(SCALE_WEIGHTS[:num])
    return tuple(weight / total for weight in SCALE_WEIGHTS[:num])


@TERMS.register
class MultiScaleSSIMConfig(TermConfig):
    """Settings of a `MultiScaleSSIM` term."""

    kind: Literal["ms-ssim"] = "ms-ssim"

    def build(self, signal: SignalSpec) -> MultiScaleSSIM:
        """Build the term."""
        check_pictures(signal, "the term ms-ssim")
        scale_weights(min(signal.size[-2:]))
        return MultiScaleSSIM(self.weight, self.start)
