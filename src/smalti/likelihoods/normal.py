"""Gaussian density of continuous values, with one learned scale per channel."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.parts import LIKELIHOODS, Likelihood, LikelihoodConfig, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.likelihoods.levels import drawn_like

LEAST_LOG_SCALE = -7.0
"""Lower bound of ln scale, so that a channel that is reproduced exactly keeps a finite density."""


@final
class Normal(Likelihood):
    """Normal density of each element; unlike the probability of a level, it can exceed 1.

    Args:
        mean: `(B, C, *size)`.
        log_scale: ln of the standard deviation, broadcastable to the mean.
    """

    def __init__(self, mean: Float[Tensor, "b c *size"], log_scale: Tensor) -> None:
        self._mean, self._log_scale = mean, log_scale

    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """-(x - mean)^2 / (2 scale^2) - ln scale - ln(2 pi) / 2, nats."""
        error = (signal.float() - self._mean) * torch.exp(-self._log_scale)
        return -0.5 * error.square() - self._log_scale - 0.5 * math.log(2 * math.pi)

    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """Draw values; the temperature multiplies the scale."""
        noise = drawn_like(torch.randn, self._mean, generator)
        return self._mean + temperature * noise * torch.exp(self._log_scale)

    def mean(self) -> Float[Tensor, "b c *size"]:
        """The mean."""
        return self._mean


@final
class NormalFamily(LikelihoodFamily):
    """Family of normal densities: the decoder outputs the means; the family has one learned scale per
    channel.

    Args:
        channels: of the signal.
    """

    is_per_position = True
    kind = "normal"
    is_per_element = False
    is_density = True

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.config = NormalConfig()
        self.num_parameters = self.channels = channels
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None) -> Normal:
        """Normal density with `(B, C, *size)` means."""
        shape = (-1,) + (1,) * (parameters.ndim - 2)
        return Normal(parameters.float(), self.log_scale.float().view(shape).clamp_min(LEAST_LOG_SCALE))


@LIKELIHOODS.register
class NormalConfig(LikelihoodConfig):
    """Settings of a `NormalFamily`; there are none."""

    kind: Literal["normal"] = "normal"

    def build(self, signal: SignalSpec) -> NormalFamily:
        """Build the family for signals of a continuous domain.

        Raises:
            InputError: for signals of exact levels, which are scored in bits/dim and not by a density.
        """
        if not signal.is_continuous:
            raise InputError(
                f"expected continuous data for a density, received {signal.levels} exact levels: use "
                "likelihood.kind=gaussian, which gives each level a probability"
            )
        return NormalFamily(signal.channels)
