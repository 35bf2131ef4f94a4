"""Softmax over the levels of every element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from smalti.core.coders import SymbolCoder
from smalti.core.conditions import Conditions
from smalti.core.parts import LIKELIHOODS, Likelihood, LikelihoodConfig, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.likelihoods.levels import cropped, drawn_like, from_levels, to_levels


class _LogSoftmaxOf(torch.autograd.Function):
    """Log-softmax over dimension 2 of `(B, C, L, *size)` logits, at one level of each element.

    The logits are by far the largest tensor of a model. They are processed item by item, so that each stays
    in a CPU's cache. Only one tensor of their size is kept, the probabilities, which become the gradient in
    place.
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
            # Not as an attribute: checkpointing drops and recomputes only tensors saved this way.
            ctx.save_for_backward(levels, kept)
        ctx.is_taken = False
        return torch.cat(picked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.is_taken:
            raise RuntimeError("the gradient of a categorical likelihood can be computed only once")
        ctx.is_taken = True
        levels, probabilities = ctx.saved_tensors
        grad = grad_outputs[0].unsqueeze(2)
        return probabilities.mul_(-grad).scatter_add_(2, levels.unsqueeze(2), grad), None


def _in_cache(batch: Tensor) -> Sequence[Tensor]:
    """Split a batch into parts that are processed in sequence: items on a CPU, the whole batch elsewhere."""
    return batch.split(1) if batch.device.type == "cpu" else (batch,)


@final
class Categorical(Likelihood):
    """Softmax over the levels of every element.

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
        """Draw each element's level (Gumbel-max)."""
        uniform = drawn_like(torch.rand, self._logits, generator)
        noise = -torch.log(-torch.log(uniform.clamp(1e-7, 1 - 1e-7)))
        level = (self._logits + temperature * noise).argmax(2)
        return from_levels(level, self._logits.shape[2])

    def code(self, levels: Int64[Tensor, "b c *size"], coder: SymbolCoder) -> None:
        """Code all elements, item by item, since tables of all levels are large."""
        for own, logits in zip(levels.split(1), self._logits.split(1), strict=True):
            coder.categorical(own, cropped(logits, own).softmax(2).movedim(2, -1))

    def mean(self) -> Float[Tensor, "b c *size"]:
        """Expected value of each element."""
        levels = self._logits.shape[2]
        values = from_levels(torch.arange(levels), levels).to(self._logits)
        with torch.autocast(self._logits.device.type, enabled=False):  # the product would be rounded
            return torch.einsum("bcl...,l->bc...", self._logits.softmax(2), values)


@final
class CategoricalFamily(LikelihoodFamily):
    """Family of softmax likelihoods: the decoder outputs a logit for each level of each channel.

    Args:
        channels: of the signal.
        levels: exact levels of each channel.
    """

    is_per_position = True
    kind = "categorical"
    gives_logits = True

    def __init__(self, channels: int = 3, levels: int = 256) -> None:
        super().__init__()
        self.config = CategoricalConfig()
        self.channels, self.levels = channels, levels
        self.num_parameters = channels * levels

    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> Categorical:
        """Softmax likelihood of `(B, L*C, *size)` logits."""
        return Categorical(parameters.float().unflatten(1, (self.channels, self.levels)))


@LIKELIHOODS.register
class CategoricalConfig(LikelihoodConfig):
    """Settings of a softmax over all levels, the authors' likelihood on CIFAR-10."""

    kind: Literal["categorical"] = "categorical"

    def build(self, signal: SignalSpec) -> CategoricalFamily:
        """Build the family for the channels and levels of a signal."""
        return CategoricalFamily(signal.channels, signal.levels)
