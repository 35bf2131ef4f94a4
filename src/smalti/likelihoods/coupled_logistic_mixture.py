"""Mixture of logistics with channels coupled within each position, discretised to exact levels."""

from __future__ import annotations

from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from smalti.core.coders import SymbolCoder
from smalti.core.conditions import Conditions
from smalti.core.parts import LIKELIHOODS, Likelihood, LikelihoodConfig, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.likelihoods.levels import bin_edges, cropped, drawn_like, from_levels, lower_edge, to_levels


@final
class CoupledLogisticMixture(Likelihood):
    """Each position has one mixture over all its channels (after Salimans et al. 2017, section 2.2).

    Within a component, the mean of channel c is linear in the residuals of the previous channels:

        m_c = mean_c + sum_{j < c} coefficient_cj (x_j - mean_j)

    so green is predicted from red, and blue from both.

    Args:
        logits: of the components, `(B, M, *size)`.
        means, log_scales: `(B, C, M, *size)`.
        coefficients: one for each pair j < c, in the order (1, 0), (2, 0), (2, 1), ...:
            `(B, C(C - 1)/2, M, *size)`.
        levels: number of levels.
    """

    def __init__(
        self, logits: Tensor, means: Tensor, log_scales: Tensor, coefficients: Tensor, levels: int
    ) -> None:
        self._logits, self._means, self._log_scales = logits, means, log_scales
        self._coefficients, self._levels = coefficients, levels

    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """ln p(channel c | the previous channels); these sum to ln p of the position."""
        x = signal.unsqueeze(2)
        means = self._moved(x)
        a, b = bin_edges(x, means, self._log_scales, self._levels)
        joint = F.log_softmax(self._logits, 1).unsqueeze(1) + _log_mass(a, b).cumsum(1)
        up_to = torch.logsumexp(joint, 2)
        return torch.cat([up_to[:, :1], up_to[:, 1:] - up_to[:, :-1]], 1)

    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """Draw a component for each position (Gumbel-max), then one channel after another."""
        uniform = drawn_like(torch.rand, self._logits, generator)
        noise = -torch.log(-torch.log(uniform.clamp(1e-7, 1 - 1e-7)))
        component = (self._logits + temperature * noise).argmax(1, keepdim=True).unsqueeze(1)
        means, log_scales, coefficients = (
            each.gather(2, component.expand(-1, each.shape[1], *component.shape[2:])).squeeze(2)
            for each in (self._means, self._log_scales, self._coefficients)
        )
        uniform = drawn_like(torch.rand, means, generator).clamp(1e-6, 1 - 1e-6)
        shifts = temperature * log_scales.exp() * torch.logit(uniform)
        drawn: list[Tensor] = []
        residuals: list[Tensor] = []
        pair = 0
        for channel in range(means.shape[1]):
            mean = means[:, channel]
            for residual in residuals:
                mean = mean + coefficients[:, pair] * residual
                pair += 1
            value = (mean + shifts[:, channel]).clamp(-1, 1)
            drawn.append(from_levels(to_levels(value, self._levels), self._levels))
            residuals.append(drawn[-1] - means[:, channel])
        return torch.stack(drawn, 1)

    def code(self, levels: Int64[Tensor, "b c *size"], coder: SymbolCoder) -> None:
        """Code one channel after another: each by the mixture that the levels of the previous ones leave."""
        parameters = (self._logits, self._means, self._log_scales, self._coefficients)
        log_weights, means, log_scales, coefficients = (cropped(each, levels) for each in parameters)
        inverse = torch.exp(-log_scales)
        residuals: list[Tensor] = []
        pair = 0
        for channel, own in enumerate(levels.unbind(1)):
            mean = means[:, channel]
            for residual in residuals:
                mean = mean + coefficients[:, pair] * residual
                pair += 1
            weights, scale = log_weights.softmax(1), inverse[:, channel]

            def below(
                level: Tensor, weights: Tensor = weights, mean: Tensor = mean, scale: Tensor = scale
            ) -> Tensor:
                edge = lower_edge(level, self._levels).unsqueeze(1)
                return (weights * torch.sigmoid((edge - mean) * scale)).sum(1)

            coder.levels(own, below, self._levels)
            value = from_levels(own, self._levels).double().unsqueeze(1)
            a, b = bin_edges(value, mean, log_scales[:, channel], self._levels)
            log_weights = log_weights + _log_mass(a, b)
            residuals.append(value - means[:, channel])

    def mean(self) -> Float[Tensor, "b c *size"]:
        """Mean of the mixture with each component clipped to the range; the residuals average to zero."""
        weights = self._logits.softmax(1).unsqueeze(1)
        return (weights * self._means.clamp(-1, 1)).sum(2)

    def _moved(self, x: Float[Tensor, "b c 1 *size"]) -> Float[Tensor, "b c m *size"]:
        """Mean of each channel, given the values of the previous channels."""
        residuals = x - self._means
        moved: list[Tensor] = []
        pair = 0
        for channel in range(x.shape[1]):
            mean = self._means[:, channel]
            for before in range(channel):
                mean = mean + self._coefficients[:, pair] * residuals[:, before]
                pair += 1
            moved.append(mean)
        return torch.stack(moved, 1)


def _log_mass(a: Tensor, b: Tensor) -> Tensor:
    """ln of the mass of a logistic between a and b; as for independent channels, exact in both tails."""
    return F.logsigmoid(b) + F.logsigmoid(-a) + torch.log(-torch.expm1((a - b).clamp_max(-1e-7)))


@final
class CoupledLogisticMixtureFamily(LikelihoodFamily):
    """Family of coupled mixtures: the decoder outputs logits, means, log-scales and coefficients.

    Args:
        channels: C of the signal.
        levels: exact levels of each channel.
        components: M, for each position.
    """

    is_per_position = True

    anchors: Tensor

    kind = "coupled_logistic_mixture"

    def __init__(self, channels: int = 3, levels: int = 256, components: int = 5) -> None:
        super().__init__()
        self.config = CoupledLogisticMixtureConfig(components=components)
        self.channels, self.levels, self.components = channels, levels, components
        pairs = channels * (channels - 1) // 2
        self._split = [components, channels * components, channels * components, pairs * components]
        self.num_parameters = sum(self._split)
        # Initialise the components evenly over the range instead of all at the same point.
        self.register_buffer("anchors", torch.linspace(-1, 1, components + 2)[1:-1], persistent=False)

    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> CoupledLogisticMixture:
        """Mixture likelihood of `(B, M (1 + 2C + C(C - 1)/2), *size)` parameters."""
        logits, *others = parameters.float().split(self._split, 1)
        means, log_scales, coefficients = (each.unflatten(1, (-1, self.components)) for each in others)
        means = means + self.anchors.view((-1,) + (1,) * (parameters.ndim - 2))
        return CoupledLogisticMixture(
            logits, means, (log_scales - 2).clamp_min(-7), coefficients, self.levels
        )


@LIKELIHOODS.register
class CoupledLogisticMixtureConfig(LikelihoodConfig):
    """Settings of a discretised mixture of logistics with `components` per position, over all channels."""

    kind: Literal["coupled_logistic_mixture"] = "coupled_logistic_mixture"
    components: int = Field(default=5, ge=1)

    def build(self, signal: SignalSpec) -> CoupledLogisticMixtureFamily:
        """Build the family for the channels and levels of a signal."""
        return CoupledLogisticMixtureFamily(signal.channels, signal.levels, self.components)
