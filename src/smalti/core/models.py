"""Abstract classes of models: trainable modules, latent-variable models, autoencoders with discrete codes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from smalti.core.conditioners import num_label_ids, undescribed_conditioners
from smalti.core.conditions import Batch, Conditions
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.locality import Extent, ReceptiveField
from smalti.core.parts import Decoder, Encoder, Likelihood, LikelihoodFamily
from smalti.core.phases import Phase
from smalti.core.precision import in_full_precision
from smalti.core.pretrained import Pretrained, settings_of
from smalti.core.registry import Registry
from smalti.core.results import BoundTerms, Loss
from smalti.core.signals import SignalSpec
from smalti.core.units import sum_over_items


class Trainable(nn.Module, ABC):
    """A module that the training loop can train: it maps a batch to one loss, or to one loss per phase.

    Attributes:
        trained_steps: optimizer steps completed so far. The loop sets it before and after each step, also in
            a resumed run and on averaged weights, for losses that change during training. A loss that reads
            it should not be compiled with `torch.compile`, which would recompile it at each new value.
    """

    trained_steps: int = 0

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """Compute the loss of a batch, a mean over items: losses of equal parts average to the whole."""

    def phases(self) -> Sequence[Phase]:
        """Return the phases of a training step, in order; by default one, `loss` with all parameters.

        All phases of a step receive the same batch. A model may store detached results of one phase for a
        later phase of the same step, but not across steps, because a resumed run starts without them.
        """
        return (Phase("all", tuple(self.parameters()), self.loss),)

    @property
    def product(self) -> Trainable:
        """The module that is validated and whose weights a run saves; by default all of it.

        Another one is part of this module, whose other parts only serve to train it.
        """
        return self

    def forward(self, batch: Batch, phase: Phase | None = None) -> Loss:
        """Compute the loss of a phase, or `loss`; data-parallel wrappers need it to be `forward`."""
        return self.loss(batch) if phase is None else phase.loss(batch)


@dataclass(frozen=True)
class ForwardPass:
    """A model's pass over a batch in training, from which losses of the reconstruction are computed.

    Attributes:
        output: `(B, P, *size)`, the decoder's output, on which the likelihood depends.
        likelihood: p(x | z).
        latent_loss: scalar, the model's loss of its latents: the quantizer's terms, or the KL divergence in
            nats per dimension.
        terms: parts of that loss by name, detached.
        latents: of the decoder, for a model with the method `latents`.
    """

    output: Tensor
    likelihood: Likelihood
    latent_loss: Float[Tensor, ""]
    terms: dict[str, Tensor]
    latents: Tensor | None = None


class LatentVariableModel(Trainable, Pretrained):
    """A model signal -> latents -> likelihood of the signal, evaluated by bounds on ln p(x)."""

    signal: SignalSpec
    encoder: Encoder
    decoder: Decoder
    family: LikelihoodFamily

    config: ModelConfig | None = None
    """Settings of the model; None if one of its parts has no registered config."""

    def settings(self) -> dict[str, Any]:
        """The model's config, the signal and the sizes of its id conditions, as plain JSON values.

        Raises:
            InputError: if no config describes one of its parts.
        """
        if self.config is None or undescribed_conditioners(self):
            raise InputError(
                f"expected parts with a registered config, received {self._undescribed()}: save the "
                "state_dict() yourself, or register a config of that class and keep it as its `config`"
            )
        return {
            "model": settings_of(self),
            "signal": self.signal.to_json(),
            "conditions": self.condition_sizes,
        }

    def _undescribed(self) -> str:
        """Names of the parts that no config describes."""
        found = []
        for name, part in self.named_children():
            if conditions := undescribed_conditioners(part):
                found.append(f"a {name} with a conditioner without one ({', '.join(conditions)})")
            elif not isinstance(getattr(part, "config", None), Configuration):
                foreign = getattr(part, "module", part)
                found.append(f"the {name} {type(foreign).__name__}")
        return " and ".join(found)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> LatentVariableModel:
        """Build the untrained model from the settings that `settings` returns."""
        signal = SignalSpec.from_json(settings["signal"])
        return MODELS.parse(settings["model"]).build(signal, settings["conditions"])

    @property
    def condition_sizes(self) -> dict[str, int]:
        """Number of ids of each condition that the decoder or the likelihood embeds itself, by name."""
        return dict(Counter(self.decoder.condition_sizes) | Counter(self.family.condition_sizes))

    @property
    def num_label_classes(self) -> int:
        """Number of classes that p(x | z, label) is conditioned on; 0 if it is unconditional."""
        by_conditioners = (num_label_ids(part) for part in (self.decoder, self.family))
        return max(self.condition_sizes.get("label", 0), *by_conditioners)

    @property
    def stride(self) -> int:
        """Signal positions per latent along the first axis (time, if the signal has a time axis)."""
        return math.prod(self.encoder.time_strides or self.encoder.strides)

    @property
    def strides(self) -> tuple[int, ...]:
        """Signal positions per latent along each axis."""
        return (self.stride, *(math.prod(self.encoder.strides),) * (self.signal.ndim - 1))

    @property
    @abstractmethod
    def title(self) -> str:
        """Name of the model in tables, such as "VQ-VAE, ema codebook"."""

    def forward_pass(self, batch: Batch) -> ForwardPass:
        """Encode and decode a batch, for a loss with terms of the reconstruction; see `Objective`.

        Raises:
            InputError: if the model has no single reconstruction in training, as by default.
        """
        raise InputError(
            f"expected a model with one reconstruction in training, received {self.title}: define its "
            "forward_pass, or train it by its own loss"
        )

    def latents(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"] | None:
        """The latents that `reconstruct` decodes; None, by default, if they are not one tensor."""
        return None

    @abstractmethod
    def reconstruct(
        self,
        signal: Float[Tensor, "b c *size"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """Compute the mean of p(x | z) at the most probable latents; a draw if the mean is unknown."""

    @abstractmethod
    def bound_terms(
        self, batch: Batch, draws: int = 1, generator: torch.Generator | None = None
    ) -> BoundTerms:
        """Draw latents from the posterior of each item, and compute the terms of bounds on ln p(x).

        Args:
            batch: signals and their conditions.
            draws: number S of draws per item; a deterministic encoder always has one.
            generator: random generator of the draws.
        """


class Autoencoder(LatentVariableModel):
    """A model signal -> discrete codes -> likelihood of the signal."""

    num_codebooks: int
    num_codes: int
    code_layout: object = None
    """Arrangement of the codes of several grids in one tensor; None for a single grid. See `new_prior`."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, ...]:
        """Code grid of one signal."""

    @abstractmethod
    def encode(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Int64[Tensor, "b g *grid"]:
        """Encode signals to their most probable codes, in the precision of the weights."""

    @abstractmethod
    def likelihood(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions | None = None
    ) -> Likelihood:
        """Compute the distribution p(x | codes, conditions)."""

    @property
    def codebook_ids(self) -> tuple[int, ...]:
        """Codebook of each of the G codes of a position; by default each code has its own."""
        return tuple(range(self.num_codebooks))

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Signal positions that a code depends on, along the first axis; None, by default, for all of them.

        A model that returns one also has `encode_within`, and a deterministic encoder.
        """
        return None

    def encode_within(
        self, signal: Float[Tensor, "b c *size"], extent: Extent, conditions: Conditions | None = None
    ) -> Int64[Tensor, "b g *grid"]:
        """Encode windows of longer signals to codes; see `Encoder.within`."""
        raise NotImplementedError(f"{type(self).__name__} has a receptive field, but no encode_within")

    @property
    def decoded_field(self) -> ReceptiveField | None:
        """Codes that a decoded position depends on, along the first axis; None, by default, for all of them.

        A model that returns one also has `decode_within`, and a likelihood with a mean.
        """
        return None

    def decode_within(
        self, codes: Int64[Tensor, "b g *grid"], extent: Extent, conditions: Conditions | None = None
    ) -> Float[Tensor, "b c *size"]:
        """Decode windows of codes to the mean of their signals; see `Decoder.within`."""
        raise NotImplementedError(f"{type(self).__name__} has a decoded field, but no decode_within")

    def draw_codes(
        self,
        signal: Float[Tensor, "b c *size"],
        generator: torch.Generator | None = None,
        conditions: Conditions | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Draw codes from the posterior, to train a prior on; `encode` for a deterministic encoder."""
        return self.encode(signal, conditions)

    @in_full_precision
    def decode(
        self,
        codes: Int64[Tensor, "b g *grid"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Float[Tensor, "b c *size"]:
        """Compute the mean of p(x | codes) in the model's range; a draw if the mean is unknown."""
        return self.likelihood(codes, conditions).mean_or_draw(generator, temperature)

    def reconstruct(
        self,
        signal: Float[Tensor, "b c *size"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """Compute `decode(encode(signal))`."""
        return self.decode(self.encode(signal, conditions), conditions, generator)

    @in_full_precision
    def bound_terms(
        self, batch: Batch, draws: int = 1, generator: torch.Generator | None = None
    ) -> BoundTerms:
        """Compute the terms for a deterministic encoder: one draw, of posterior probability 1.

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

    decoding_fields: ClassVar[tuple[str, ...]] = ("decoder", "likelihood")
    """Names of the settings on which the codes do not depend."""

    @abstractmethod
    def build(self, signal: SignalSpec, conditions: Mapping[str, int] | None = None) -> LatentVariableModel:
        """Build the untrained model.

        Args:
            signal: channels, size and domain of the data.
            conditions: number of ids of each id condition of the data, by name (`label`, ...). A decoder
                embeds those that it knows, and ignores the others.

        Raises:
            InputError: if the parts do not fit each other or the signal.
        """


MODELS = Registry("model", ModelConfig, "smalti.models")
AnyModel = Annotated[ModelConfig, MODELS]
