"""Abstract classes of the parts of a model, each with its config: encoder, quantizer, decoder, likelihood.

A part is a module with a keyword constructor. Its config is the same settings as plain data, and `build`
makes the module for a given signal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.config import Configuration
from smalti.core.pretrained import Pretrained, settings_of
from smalti.core.registry import Registry
from smalti.core.results import Quantized
from smalti.core.signals import SignalSpec


class Encoder(nn.Module, ABC):
    """signal `(B, C, *size)` -> latents `(B, D, *grid)`."""

    strides: tuple[int, ...]
    """Downsampling factor of each stage, in every dimension; their product is the "f" of f4, f8, f16."""
    time_strides: tuple[int, ...] = ()
    """Downsampling factor of each stage along the first axis of clips (time); () where it is `strides`."""
    is_per_frame: bool = False
    """Whether each frame of a clip is encoded by itself, and so must be decoded by itself."""

    @abstractmethod
    def forward(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Latents; most encoders ignore the conditions."""

    @abstractmethod
    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Grid of the latents of a signal of this size.

        Raises:
            InputError: when the strides do not divide the size.
        """


class EncoderConfig(Configuration):
    """Settings of an encoder."""

    def build(self, signal: SignalSpec, dim: int) -> Encoder:
        """The untrained encoder.

        Args:
            signal: channels, size and levels of the data.
            dim: channels of the latents.

        Raises:
            InputError: when it cannot encode such a signal.
        """
        raise NotImplementedError


class Decoder(nn.Module, ABC):
    """latents `(B, D, *grid)` -> parameters of a likelihood `(B, P, *size)`."""

    num_classes: int = 0
    """Labels that it is conditioned on; 0 for an unconditional decoder."""

    @abstractmethod
    def forward(
        self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *size"]: ...


class Quantizer(Pretrained, ABC):
    """latents -> codes -> latents, with G codes out of K at each position."""

    num_codebooks: int
    num_codes: int
    dim: int
    """Channels of the latents."""
    config: Any
    """Its `QuantizerConfig`, from which another like it can be built."""
    layout: Any = None
    """Where the channels are, for a quantizer that has the choice; a dataclass with `channel_last`."""

    @abstractmethod
    def forward(self, latents: Float[Tensor, "b d *grid"]) -> Quantized:
        """Quantize; in training mode a codebook that learns from statistics also takes its step."""

    @abstractmethod
    def encode(self, latents: Float[Tensor, "b d *grid"]) -> Int64[Tensor, "b g *grid"]: ...

    @abstractmethod
    def decode(self, codes: Int64[Tensor, "b g *grid"]) -> Float[Tensor, "b d *grid"]: ...

    @property
    def title(self) -> str:
        """Its name in tables."""
        return type(self).__name__

    def settings(self) -> dict[str, Any]:
        """Its config, and whether its channels come last."""
        return {"config": settings_of(self), "channel_last": bool(self.layout and self.layout.channel_last)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Quantizer:
        """The untrained quantizer; of any class, which `from_pretrained` checks."""
        quantizer = QUANTIZERS.parse(settings["config"]).build()
        if settings["channel_last"]:
            quantizer.layout = replace(quantizer.layout, channel_last=True)
        return quantizer


class QuantizerConfig(Configuration):
    """Settings of a quantizer."""

    def build(self) -> Quantizer:
        """The untrained quantizer."""
        raise NotImplementedError


class Likelihood(ABC):
    """A distribution over signals, as a decoder parametrises it."""

    has_mean: bool = True
    """Whether `mean` is known; that of an autoregressive likelihood is not."""

    @abstractmethod
    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """ln p of each element, nats."""

    @abstractmethod
    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """A draw; a temperature below 1 keeps it closer to the mode, 0 takes the mode."""

    @abstractmethod
    def mean(self) -> Float[Tensor, "b c *size"]: ...

    def known_mean(self) -> Float[Tensor, "b c *size"] | None:
        """`mean`, or None where it is not known."""
        return self.mean() if self.has_mean else None

    def mean_or_draw(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """`mean`, or a draw where it is not known."""
        return self.mean() if self.has_mean else self.sample(generator, temperature)


class LikelihoodFamily(nn.Module, ABC):
    """A family of likelihoods; called with a decoder's output it gives the member."""

    kind: str = ""
    """Its name in tables: the `kind` of its config."""
    num_parameters: int
    """Channels that the decoder must give."""
    num_classes: int = 0
    """Labels that it is conditioned on; 0 for an unconditional one."""
    is_density: bool = False
    """Whether `log_prob` is the log of a density of continuous values, not of a probability of levels."""
    is_per_element: bool = True
    """Whether the decoder sets the whole shape of each element's distribution: no scale is shared."""

    @abstractmethod
    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> Likelihood:
        """The member; only a family that is itself a network uses the conditions."""


class LikelihoodConfig(Configuration):
    """Settings of a family of likelihoods."""

    def build(self, signal: SignalSpec) -> LikelihoodFamily:
        """The family for signals of these channels and levels."""
        raise NotImplementedError


class DecoderConfig(Configuration):
    """Settings of a decoder."""

    def build(
        self,
        signal: SignalSpec,
        dim: int,
        encoder: Encoder,
        likelihood: LikelihoodFamily,
        num_classes: int = 0,
    ) -> tuple[Decoder, LikelihoodFamily]:
        """The untrained decoder, and the likelihood of whole signals that its output parametrises.

        The likelihood is the one given, unless the decoder is autoregressive: then that one is the factor of
        each element.

        Args:
            signal: channels, size and levels of the data.
            dim: channels of the latents.
            encoder: whose downsampling the decoder reverses where it has no strides of its own.
            likelihood: of the signal.
            num_classes: labels that the decoder may be conditioned on.

        Raises:
            InputError: when the parts do not fit each other or the signal.
        """
        raise NotImplementedError


ENCODERS = Registry("encoder", EncoderConfig, "smalti.encoders")
DECODERS = Registry("decoder", DecoderConfig, "smalti.decoders")
QUANTIZERS = Registry("quantizer", QuantizerConfig, "smalti.quantizers")
LIKELIHOODS = Registry("likelihood", LikelihoodConfig, "smalti.likelihoods")

AnyEncoder = Annotated[EncoderConfig, ENCODERS]
AnyDecoder = Annotated[DecoderConfig, DECODERS]
AnyQuantizer = Annotated[QuantizerConfig, QUANTIZERS]
AnyLikelihood = Annotated[LikelihoodConfig, LIKELIHOODS]
