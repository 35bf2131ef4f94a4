"""Likelihoods of signals with 256 (or so) exact levels in [-1, 1]: log_prob, sample, mean.

All are distributions over the levels, so that log_prob is the log of a probability, never of a density,
and bits/dim made from it are honest. Level k of L lies at 2k / (L - 1) - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from smalti.interfaces import Conditions, Configuration, Likelihood, LikelihoodFamily, SignalSpec

FAR = 1e8
"""Stands for infinity at the outermost bins, in units of the scale."""


def bits_per_dim(nats: Tensor, dims: int) -> Tensor:
    """Nats for each item -> bits for each of its `dims` dimensions."""
    return nats / (dims * math.log(2))


def to_levels(signal: Float[Tensor, "*any"], levels: int) -> Int64[Tensor, "*any"]:
    """Signal in [-1, 1] -> level 0 .. levels - 1, exactly (rounded: truncation would shift classes)."""
    return ((signal.float() + 1) * ((levels - 1) / 2)).round().clamp(0, levels - 1).long()


def from_levels(level: Tensor, levels: int) -> Float[Tensor, "*any"]:
    """Level 0 .. levels - 1 -> signal in [-1, 1]."""
    return level.float() * (2 / (levels - 1)) - 1


def _drawn(draw: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Random numbers of a tensor's shape, made where the generator is: a seed's are the same everywhere."""
    source = generator.device if generator is not None else like.device
    return draw(like.shape, generator=generator, device=source).to(like.device)


def _bin_edges(signal: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Lower and upper edge of each element's bin, from the mean in units of the scale.

    The outermost bins reach (all but) to infinity, whatever the scale: the levels' masses sum to one.
    """
    half = 1 / (levels - 1)
    inverse = torch.exp(-log_scale)
    # Finite and without a gradient, because that of infinity times a scale is not a number.
    lower = torch.where(signal < -1 + half, -FAR, (signal - half - mean) * inverse)
    upper = torch.where(signal > 1 - half, FAR, (signal + half - mean) * inverse)
    return lower, upper


def _source(generator: torch.Generator | None, like: Tensor) -> torch.device:
    """Where numbers are made: the generator decides, so that a seed gives the same ones for every device."""
    return like.device if generator is None else generator.device


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=_source(generator, like)).to(like.device)


def _log_normal_cdf(x: Tensor) -> Tensor:
    """ln of the normal distribution function; the gradient of torch's is wrong, or infinite, below -1000."""
    low, high = x.clamp_max(-1), x.clamp_min(-1)
    tail = torch.log(torch.special.erfcx(low * -math.sqrt(0.5)) / 2) - low.square() / 2
    return torch.where(x < -1, tail, torch.special.log_ndtr(high))


@final
class Gaussian(Likelihood):
    """A Gaussian's mass on each level's bin, the tails going to the outermost levels.

    Args:
        mean: `(B, C, *size)`.
        log_scale: ln of the standard deviation, broadcastable to the mean.
        levels: number of levels.
    """

    def __init__(self, mean: Float[Tensor, "b c *size"], log_scale: Tensor, levels: int) -> None:
        self._mean, self._log_scale, self._levels = mean, log_scale, levels

    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """ln of the bin's mass, stable in both tails."""
        a, b = _bin_edges(signal, self._mean, self._log_scale, self._levels)
        # In the upper tail both CDFs are 1 to float precision: mirror the bin into the lower tail.
        a, b = torch.where(a > 0, -b, a), torch.where(a > 0, -a, b)
        log_cdf_b = _log_normal_cdf(b)
        difference = (_log_normal_cdf(a) - log_cdf_b).clamp_max(-1e-7)
        return log_cdf_b + torch.log(-torch.expm1(difference))

    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """A draw, rounded to its level."""
        noise = _drawn(torch.randn, self._mean, generator)
        value = self._mean + temperature * noise * torch.exp(self._log_scale)
        return from_levels(to_levels(value.clamp(-1, 1), self._levels), self._levels)

    def mean(self) -> Float[Tensor, "b c *size"]:
        """The Gaussian's mean, clipped to the range."""
        return self._mean.clamp(-1, 1)


class GaussianConfig(Configuration):
    """Gaussian with one learned scale a channel; its mean is what minimises the squared error."""

    kind: Literal["gaussian"] = "gaussian"


@final
class GaussianFamily(LikelihoodFamily):
    """The decoder gives the means; the scale of each channel is a parameter of the family."""

    parameters_per_channel = 1

    def __init__(self, config: GaussianConfig, signal: SignalSpec) -> None:
        super().__init__()
        del config  # it has no settings
        self.levels = signal.levels
        self.log_scale = nn.Parameter(torch.full((signal.channels,), math.log(0.3)))

    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> Gaussian:
        """The Gaussian of `(B, C, *size)` means."""
        shape = (-1,) + (1,) * (parameters.ndim - 2)
        return Gaussian(parameters.float(), self.log_scale.float().view(shape).clamp_min(-7), self.levels)


@final
class LogisticMixture(Likelihood):
    """A mixture of M logistics' masses on each level's bin (Salimans et al. 2017, section 2.1).

    Every element has a mixture of its own: channels are independent given the codes.

    Args:
        logits, means, log_scales: `(B, C, M, *size)`.
        levels: number of levels.
    """

    def __init__(self, logits: Tensor, means: Tensor, log_scales: Tensor, levels: int) -> None:
        self._logits, self._means, self._log_scales, self._levels = logits, means, log_scales, levels

    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """ln of the bin's mass under the mixture."""
        a, b = _bin_edges(signal.unsqueeze(2), self._means, self._log_scales, self._levels)
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)): no cancellation in either tail.
        log_mass = F.logsigmoid(b) + F.logsigmoid(-a) + torch.log(-torch.expm1((a - b).clamp_max(-1e-7)))
        return torch.logsumexp(F.log_softmax(self._logits, 2) + log_mass, 2)

    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """A draw: a component (Gumbel-max), then its logistic, rounded to its level."""
        uniform = _drawn(torch.rand, self._logits, generator)
        noise = -torch.log(-torch.log(uniform.clamp(1e-7, 1 - 1e-7)))
        component = (self._logits + temperature * noise).argmax(2, keepdim=True)
        mean, log_scale = self._means.gather(2, component), self._log_scales.gather(2, component)
        uniform = _drawn(torch.rand, mean, generator).clamp(1e-6, 1 - 1e-6)
        value = (mean + temperature * torch.exp(log_scale) * torch.logit(uniform)).squeeze(2)
        return from_levels(to_levels(value.clamp(-1, 1), self._levels), self._levels)

    def mean(self) -> Float[Tensor, "b c *size"]:
        """The mixture's mean, each component clipped to the range (the bins' edges are not integrated)."""
        return (self._logits.softmax(2) * self._means.clamp(-1, 1)).sum(2)


class LogisticMixtureConfig(Configuration):
    """Discretised mixture of logistics with `components` for each element."""

    kind: Literal["logistic_mixture"] = "logistic_mixture"
    components: int = Field(default=5, ge=1)


@final
class LogisticMixtureFamily(LikelihoodFamily):
    """The decoder gives logits, means and log-scales of every component."""

    def __init__(self, config: LogisticMixtureConfig, signal: SignalSpec) -> None:
        super().__init__()
        self.levels, self.channels = signal.levels, signal.channels
        self.parameters_per_channel = 3 * config.components
        # Components start spread over the range instead of on top of each other.
        self.register_buffer("anchors", torch.linspace(-1, 1, config.components + 2)[1:-1], persistent=False)

    anchors: Tensor

    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> LogisticMixture:
        """The mixture of `(B, 3*M*C, *size)` parameters."""
        split = parameters.float().unflatten(1, (self.channels, 3, -1))
        logits, means, log_scales = split.unbind(2)
        means = means + self.anchors.view((-1,) + (1,) * (parameters.ndim - 2))
        return LogisticMixture(logits, means, (log_scales - 2).clamp_min(-7), self.levels)


class _LogSoftmaxOf(torch.autograd.Function):
    """The log-softmax over dimension 2 of `(B, C, L, *size)` logits, at one level of each element.

    The logits are by far the largest tensor of a model. They are read item by item, so that each stays in a
    CPU's cache, and one tensor of their size is kept: the probabilities, which become the gradient in place.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, levels: Tensor) -> Tensor:
        parts = zip(_in_cache(logits), _in_cache(levels.unsqueeze(2)), strict=True)
        keeps = ctx.needs_input_grad[0]
        kept = torch.empty_like(logits) if keeps else logits
        picked = []
        for out, (part, level) in zip(_in_cache(kept), parts, strict=True):
            log_softmax = part.log_softmax(2)
            picked.append(log_softmax.gather(2, level).squeeze(2))
            if keeps:
                torch.exp(log_softmax, out=out)
        if keeps:
            # Not as an attribute: what is saved so, checkpointing drops and makes again.
            ctx.save_for_backward(levels, kept)
        ctx.is_taken = False
        return torch.cat(picked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.is_taken:
            raise RuntimeError("the gradient of a categorical likelihood can be taken once only")
        ctx.is_taken = True
        levels, probabilities = ctx.saved_tensors
        grad = grad_outputs[0].unsqueeze(2)
        return probabilities.mul_(-grad).scatter_add_(2, levels.unsqueeze(2), grad), None


def _in_cache(batch: Tensor) -> Sequence[Tensor]:
    """A batch in parts that are worked on one after another: items on a CPU, all at once elsewhere."""
    return batch.split(1) if batch.device.type == "cpu" else (batch,)


@final
class Categorical(Likelihood):
    """A softmax over the levels of every element.

    Args:
        logits: `(B, C, L, *size)`.
    """

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """ln of the level's probability."""
        levels = to_levels(signal, self._logits.shape[2])
        return cast("Tensor", _LogSoftmaxOf.apply(self._logits, levels))

    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """A draw of each element's level (Gumbel-max)."""
        uniform = _drawn(torch.rand, self._logits, generator)
        noise = -torch.log(-torch.log(uniform.clamp(1e-7, 1 - 1e-7)))
        level = (self._logits + temperature * noise).argmax(2)
        return from_levels(level, self._logits.shape[2])

    def mean(self) -> Float[Tensor, "b c *size"]:
        """The expected level."""
        levels = self._logits.shape[2]
        values = from_levels(torch.arange(levels), levels).to(self._logits)
        with torch.autocast(self._logits.device.type, enabled=False):  # a product, so it would be rounded
            return torch.einsum("bcl...,l->bc...", self._logits.softmax(2), values)


class CategoricalConfig(Configuration):
    """A softmax over all levels: what the authors used on CIFAR-10."""

    kind: Literal["categorical"] = "categorical"


@final
class CategoricalFamily(LikelihoodFamily):
    """The decoder gives a logit for each level of each channel."""

    def __init__(self, config: CategoricalConfig, signal: SignalSpec) -> None:
        super().__init__()
        del config  # it has no settings
        self.channels = signal.channels
        self.parameters_per_channel = signal.levels

    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> Categorical:
        """The softmax of `(B, L*C, *size)` logits."""
        return Categorical(parameters.float().unflatten(1, (self.channels, self.parameters_per_channel)))


LikelihoodConfig = Annotated[
    LogisticMixtureConfig | CategoricalConfig | GaussianConfig, Field(discriminator="kind")
]


def build_likelihood(config: LikelihoodConfig, signal: SignalSpec) -> LikelihoodFamily:
    """The family that a config names."""
    families = {
        "gaussian": GaussianFamily,
        "logistic_mixture": LogisticMixtureFamily,
        "categorical": CategoricalFamily,
    }
    return families[config.kind](config, signal)
