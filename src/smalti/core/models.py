"""Abstract classes of models: anything trainable, latent-variable models, autoencoders with codes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from smalti.core.conditions import Batch, Conditions
from smalti.core.config import Configuration
from smalti.core.parts import Decoder, Encoder, Likelihood, LikelihoodFamily
from smalti.core.phases import Phase
from smalti.core.pretrained import Pretrained, settings_of
from smalti.core.registry import Registry
from smalti.core.results import BoundTerms, Loss
from smalti.core.signals import SignalSpec
from smalti.core.units import sum_over_items


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


class LatentVariableModel(Trainable, Pretrained):
    """signal -> latents -> likelihood of the signal. Trained with `loss`, compared by bounds on ln p(x)."""

    signal: SignalSpec
    encoder: Encoder
    decoder: Decoder
    family: LikelihoodFamily

    config: ModelConfig | None = None
    """Its settings; None for a model with a part that has no registered config."""

    def settings(self) -> dict[str, Any]:
        """The model's config, the signal and the number of label classes, as plain JSON values."""
        return {
            "model": settings_of(self),
            "signal": self.signal.to_json(),
            "num_classes": self.num_label_classes,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> LatentVariableModel:
        """Build the untrained model of such settings."""
        signal = SignalSpec.from_json(settings["signal"])
        return MODELS.parse(settings["model"]).build(signal, settings["num_classes"])

    @property
    def num_label_classes(self) -> int:
        """Number of labels that p(x | z, label) is conditioned on; 0 for none."""
        return max(self.decoder.num_classes, self.family.num_classes)

    @property
    def stride(self) -> int:
        """Positions of a signal for each of its latents, along its first axis: time, where it has that."""
        return math.prod(self.encoder.time_strides or self.encoder.strides)

    @property
    @abstractmethod
    def title(self) -> str:
        """Its name in tables, such as "VQ-VAE, ema codebook"."""

    @abstractmethod
    def reconstruct(
        self,
        signal: Float[Tensor, "b c *size"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """The mean of p(x | z) at the signal's most probable latents; a draw where it has no known mean."""

    @abstractmethod
    def bound_terms(
        self, batch: Batch, draws: int = 1, generator: torch.Generator | None = None
    ) -> BoundTerms:
        """Draw from the posterior of each item, and compute what bounds on ln p(x) need of each draw.

        Args:
            batch: signals and their conditions.
            draws: S of each item, where the posterior is a distribution.
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

    @property
    def codebook_ids(self) -> tuple[int, ...]:
        """Which codebook each of the G codes of a position belongs to; here each has its own."""
        return tuple(range(self.num_codebooks))

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

    def bound_terms(
        self, batch: Batch, draws: int = 1, generator: torch.Generator | None = None
    ) -> BoundTerms:
        """The terms of a deterministic encoder: its codes are the whole posterior, so there is one draw.

        The bound is then exactly the evidence lower bound (van den Oord et al. 2017, section 3.2).
        """
        codes = self.encode(batch.data, batch.conditions)
        likelihood = self.likelihood(codes, batch.conditions)
        distortion = -sum_over_items(likelihood.log_prob(batch.data), batch.lengths, batch.mask)
        return BoundTerms(
            distortions=distortion.unsqueeze(0),
            log_posteriors=torch.zeros_like(distortion).unsqueeze(0),
            draws=codes.unsqueeze(0),
            codes=codes,
            reconstruction=likelihood.known_mean(),
        )


class ModelConfig(Configuration):
    """Settings of a model."""

    def build(self, signal: SignalSpec, num_classes: int = 0) -> LatentVariableModel:
        """The untrained model.

        Args:
            signal: channels, size and levels of the data.
            num_classes: labels that the decoder may be conditioned on.

        Raises:
            InputError: when the parts do not fit each other or the signal.
        """
        raise NotImplementedError


MODELS = Registry("model", ModelConfig, "smalti.models")
AnyModel = Annotated[ModelConfig, MODELS]
