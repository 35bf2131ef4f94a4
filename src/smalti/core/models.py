"""Abstract classes of models: anything trainable, latent-variable models, autoencoders with codes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

if TYPE_CHECKING:
    pass
from smalti.core.conditions import Batch, Conditions
from smalti.core.parts import Decoder, Encoder, Likelihood, LikelihoodFamily
from smalti.core.phases import Phase
from smalti.core.priors import Prior
from smalti.core.results import Bound, Loss, Measured, summed
from smalti.core.signals import SignalSpec


class Trainable(nn.Module, ABC):
    """Anything the training loop can train: it turns a batch into one loss, or into one loss per phase.

    Attributes:
        trained_steps: optimizer steps completed so far. The loop sets it before each step, also after a
            resumption, for losses that change during training. A loss that reads it should not be compiled
            with `torch.compile`, which would compile it again at each new value.
    """

    trained_steps: int = 0

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """The loss of one batch (mean over items, so that equal shares of a batch average to the whole)."""

    def phases(self) -> Sequence[Phase]:
        """What a training step consists of, in order; by default one phase: all parameters minimise `loss`.

        All phases of a step receive the same batch. A model with several may keep what an earlier phase
        computed, detached, for a later one of the same step, but never across steps: a resumed run starts
        without it.
        """
        return (Phase("all", tuple(self.parameters()), self.loss),)

    def forward(self, batch: Batch, phase: Phase | None = None) -> Loss:
        """The loss of a phase, or `loss`; `forward`, because that is what data-parallel wrappers call."""
        return self.loss(batch) if phase is None else phase.loss(batch)


class LatentVariableModel(Trainable):
    """signal -> latents -> likelihood of the signal. Trained with `loss`, compared by bounds on ln p(x)."""

    signal: SignalSpec
    encoder: Encoder
    decoder: Decoder
    family: LikelihoodFamily

    @property
    def told_classes(self) -> int:
        """Labels that p(x | z, label) is told, and that a bound on p(x) has to pay for; 0 for none."""
        return max(self.decoder.num_classes, self.family.num_classes)

    def cost_of_labels(self, conditions: Conditions) -> float | Float[Tensor, " b"]:
        """What a receiver must be told besides the codes: p(x) >= p(x | label) / number of labels, nats."""
        labels = conditions.tensor("label")
        if not self.told_classes or labels is None:
            return 0.0
        return math.log(self.told_classes) * (labels >= 0)

    @property
    def stride(self) -> int:
        """Positions of a signal for each of its latents, along its first axis: time, where it has that."""
        return math.prod(self.encoder.time_strides or self.encoder.strides)

    @property
    @abstractmethod
    def title(self) -> str:
        """What tables call it, such as "VQ-VAE, ema codebook"."""

    @abstractmethod
    def reconstruct(
        self,
        signal: Float[Tensor, "b c *size"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """The mean of p(x | z) at the signal's most probable latents; a draw where it has no known mean."""

    @abstractmethod
    def measure(
        self,
        batch: Batch,
        priors: Sequence[Prior] = (),
        draws: int = 1,
        generator: torch.Generator | None = None,
    ) -> Measured:
        """Everything that is reported of a batch, in one pass.

        Args:
            batch: signals, and their conditions, which only priors that `takes_labels` are told.
            priors: over the model's codes; a model with continuous latents has a prior of its own.
            draws: from the posterior of each item, where it is a distribution.
            generator: of the draws.
        """


class Autoencoder(LatentVariableModel):
    """signal -> codes -> likelihood of the signal."""

    num_codebooks: int
    num_codes: int
    code_layout: object = None
    """How the codes of several grids lie in one; None for codes of one grid. See `new_prior`."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, ...]:
        """Grid of the codes of one signal."""

    @abstractmethod
    def encode(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Int64[Tensor, "b g *grid"]: ...

    @abstractmethod
    def likelihood(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions | None = None
    ) -> Likelihood:
        """p(x | codes, conditions), the whole distribution."""

    def by_codebook(self, counts: Int64[Tensor, "g k"]) -> Int64[Tensor, "c k"]:
        """How often each code of each codebook occurs: in a model where several of the G codes of a place are
        of one codebook, their sum."""
        return counts

    def likelihood_without_codes(
        self, num: int, grid: Sequence[int], conditions: Conditions | None = None
    ) -> Likelihood | None:
        """p(x | no codes) of `num` signals whose codes would have this grid; None if it was not learned."""
        return None

    def draw_codes(
        self,
        signal: Float[Tensor, "b c *size"],
        generator: torch.Generator | None = None,
        conditions: Conditions | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Codes as the posterior gives them, for a prior to learn from; a deterministic encoder's own."""
        return self.encode(signal, conditions)

    def decode(
        self,
        codes: Int64[Tensor, "b g *grid"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Float[Tensor, "b c *size"]:
        """The mean of p(x | codes), in the signal's model range; a draw where it has no known mean."""
        return self.likelihood(codes, conditions).mean_or_draw(generator, temperature)

    def reconstruct(
        self,
        signal: Float[Tensor, "b c *size"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """`decode(encode(signal))`."""
        return self.decode(self.encode(signal, conditions), conditions, generator)

    def measure(
        self,
        batch: Batch,
        priors: Sequence[Prior] = (),
        draws: int = 1,
        generator: torch.Generator | None = None,
    ) -> Measured:
        """The bound -ln p(x) <= -ln p(z) - ln p(x|z) at the signal's own codes z, for each prior.

        For a deterministic encoder the one term of the sum over z is the whole posterior, so this is exactly
        the evidence lower bound (van den Oord et al. 2017, section 3.2), and more draws would change nothing.
        """
        codes = self.encode(batch.data, batch.conditions)
        likelihood = self.likelihood(codes, batch.conditions)
        distortion = -summed(likelihood.log_prob(batch.data), batch.lengths)
        labels = self.cost_of_labels(batch.conditions)
        bounds = {}
        for prior in priors:
            if prior.takes_labels:  # it pays for the labels itself
                bounds[prior.name] = Bound(-prior.log_prob(codes, batch.conditions), distortion)
            else:
                rate = labels - prior.log_prob(codes, Conditions())
                bounds[prior.name] = Bound(rate, distortion, labels)
        return Measured(bounds, likelihood.known_mean(), codes)
