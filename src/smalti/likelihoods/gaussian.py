"""Gaussian likelihood, discretised to exact levels."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from smalti.core.coders import SymbolCoder
from smalti.core.conditions import Conditions
from smalti.core.parts import LIKELIHOODS, Likelihood, LikelihoodConfig, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.likelihoods.levels import (
    bin_edges,
    clipped_towards_range,
    cropped,
    drawn_like,
    from_levels,
    lower_edge,
    to_levels,
)


def log_normal_cdf(x: Tensor) -> Tensor:
    """ln of the normal CDF; unlike torch's, its gradient is correct and finite below -1000."""
    low, high = x.clamp_max(-1), x.clamp_min(-1)
    tail = torch.log(torch.special.erfcx(low * -math.sqrt(0.5)) / 2) - low.square() / 2
    return torch.where(x < -1, tail, torch.special.log_ndtr(high))


@final
class Gaussian(Likelihood):
    """Mass of a Gaussian on each level's bin; the outermost bins include the tails.

    Args:
        mean: `(B, C, *size)`.
        log_scale: ln of the standard deviation, broadcastable to the mean.
        levels: number of levels.
    """

    def __init__(self, mean: Float[Tensor, "b c *size"], log_scale: Tensor, levels: int) -> None:
        self._mean, self._log_scale, self._levels = mean, log_scale, levels

    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """ln of the bin's mass, stable in both tails."""
        a, b = bin_edges(signal, self._mean, self._log_scale, self._levels)
        # In the upper tail both CDFs are 1 to float precision: mirror the bin into the lower tail.
        a, b = torch.where(a > 0, -b, a), torch.where(a > 0, -a, b)
        log_cdf_b = log_normal_cdf(b)
        difference = (log_normal_cdf(a) - log_cdf_b).clamp_max(-1e-7)
        return log_cdf_b + torch.log(-torch.expm1(difference))

    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """Draw values, rounded to the nearest level."""
        noise = drawn_like(torch.randn, self._mean, generator)
        value = self._mean + temperature * noise * torch.exp(self._log_scale)
        return from_levels(to_levels(value.clamp(-1, 1), self._levels), self._levels)

    def code(self, levels: Int64[Tensor, "b c *size"], coder: SymbolCoder) -> None:
        """Code all elements by the cumulative distribution of their Gaussians."""
        means = cropped(self._mean, levels)
        inverse = torch.exp(-cropped(self._log_scale.expand_as(self._mean), levels))

        def below(level: Tensor) -> Tensor:
            return torch.special.ndtr((lower_edge(level, self._levels) - means) * inverse)

        coder.levels(levels, below, self._levels)

    def mean(self) -> Float[Tensor, "b c *size"]:
        """Mean of the Gaussian, clipped to the range."""
        return self._mean.clamp(-1, 1)

    def straight_through_mean(self) -> Float[Tensor, "b c *size"]:
        """The clipped mean, with the gradients that do not move it further beyond the range."""
        return clipped_towards_range(self._mean)


@final
class GaussianFamily(LikelihoodFamily):
    """Family of Gaussians: the decoder outputs the means; the family has one learned scale per channel.

    Args:
        channels: of the signal.
        levels: exact levels of each channel.
    """

    is_per_position = True
    is_per_element = False

    kind = "gaussian"

    def __init__(self, channels: int = 3, levels: int = 256) -> None:
        super().__init__()
        self.config = GaussianConfig()
        self.num_parameters, self.channels, self.levels = channels, channels, levels
        self.log_scale = nn.Parameter(torch.full((channels,), math.log(0.3)))

    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> Gaussian:
        """Gaussian likelihood of `(B, C, *size)` means."""
        shape = (-1,) + (1,) * (parameters.ndim - 2)
        return Gaussian(parameters.float(), self.log_scale.float().view(shape).clamp_min(-7), self.levels)


@LIKELIHOODS.register
class GaussianConfig(LikelihoodConfig):
    """Settings of a Gaussian with one learned scale per channel; its mean minimises the squared error."""

    kind: Literal["gaussian"] = "gaussian"

    def build(self, signal: SignalSpec) -> GaussianFamily:
        """Build the family for the channels and levels of a signal."""
        return GaussianFamily(signal.channels, signal.levels)
