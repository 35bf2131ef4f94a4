"""Mixture of logistics, discretised to exact levels; channels are independent."""

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
class LogisticMixture(Likelihood):
    """Mass of a mixture of M logistics on each level's bin (Salimans et al. 2017, section 2.1).

    Every element has its own mixture: channels are independent given the codes.

    Args:
        logits, means, log_scales: `(B, C, M, *size)`.
        levels: number of levels.
    """

    def __init__(self, logits: Tensor, means: Tensor, log_scales: Tensor, levels: int) -> None:
        self._logits, self._means, self._log_scales, self._levels = logits, means, log_scales, levels

    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """ln of the bin's mass under the mixture."""
        a, b = bin_edges(signal.unsqueeze(2), self._means, self._log_scales, self._levels)
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)): no cancellation in either tail.
        log_mass = F.logsigmoid(b) + F.logsigmoid(-a) + torch.log(-torch.expm1((a - b).clamp_max(-1e-7)))
        return torch.logsumexp(F.log_softmax(self._logits, 2) + log_mass, 2)

    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """Draw a component (Gumbel-max), then a value of its logistic, rounded to the nearest level."""
        uniform = drawn_like(torch.rand, self._logits, generator)
        noise = -torch.log(-torch.log(uniform.clamp(1e-7, 1 - 1e-7)))
        component = (self._logits + temperature * noise).argmax(2, keepdim=True)
        mean, log_scale = self._means.gather(2, component), self._log_scales.gather(2, component)
        uniform = drawn_like(torch.rand, mean, generator).clamp(1e-6, 1 - 1e-6)
        value = (mean + temperature * torch.exp(log_scale) * torch.logit(uniform)).squeeze(2)
        return from_levels(to_levels(value.clamp(-1, 1), self._levels), self._levels)

    def code(self, levels: Int64[Tensor, "b c *size"], coder: SymbolCoder) -> None:
        """Code all elements by the cumulative distribution of their mixtures."""
        parameters = (self._logits, self._means, self._log_scales)
        logits, means, log_scales = (cropped(each, levels) for each in parameters)
        weights, inverse = logits.softmax(2), torch.exp(-log_scales)

        def below(level: Tensor) -> Tensor:
            edge = lower_edge(level, self._levels).unsqueeze(2)
            return (weights * torch.sigmoid((edge - means) * inverse)).sum(2)

        coder.levels(levels, below, self._levels)

    def mean(self) -> Float[Tensor, "b c *size"]:
        """Mean of the mixture, with each component clipped to the range (an approximation at the edges)."""
        return (self._logits.softmax(2) * self._means.clamp(-1, 1)).sum(2)


@final
class LogisticMixtureFamily(LikelihoodFamily):
    """Family of mixtures: the decoder outputs logits, means and log-scales of every component.

    Args:
        channels: of the signal.
        levels: exact levels of each channel.
        components: M, for each element.
    """

    is_per_position = True

    anchors: Tensor

    kind = "logistic_mixture"

    def __init__(self, channels: int = 3, levels: int = 256, components: int = 5) -> None:
        super().__init__()
        self.config = LogisticMixtureConfig(components=components)
        self.levels, self.channels = levels, channels
        self.num_parameters = 3 * components * channels
        # Initialise the components evenly over the range instead of all at the same point.
        self.register_buffer("anchors", torch.linspace(-1, 1, components + 2)[1:-1], persistent=False)

    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> LogisticMixture:
        """Mixture likelihood of `(B, 3*M*C, *size)` parameters."""
        split = parameters.float().unflatten(1, (self.channels, 3, -1))
        logits, means, log_scales = split.unbind(2)
        means = means + self.anchors.view((-1,) + (1,) * (parameters.ndim - 2))
        return LogisticMixture(logits, means, (log_scales - 2).clamp_min(-7), self.levels)


@LIKELIHOODS.register
class LogisticMixtureConfig(LikelihoodConfig):
    """Settings of a discretised mixture of logistics with `components` per element; channels are
    independent."""

    kind: Literal["logistic_mixture"] = "logistic_mixture"
    components: int = Field(default=5, ge=1)

    def build(self, signal: SignalSpec) -> LogisticMixtureFamily:
        """Build the family for the channels and levels of a signal."""
        return LogisticMixtureFamily(signal.channels, signal.levels, self.components)
