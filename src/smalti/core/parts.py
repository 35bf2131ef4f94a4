"""Abstract classes of the parts of a model: encoder, quantizer, decoder, likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

if TYPE_CHECKING:
    pass
from smalti.core.conditions import Conditions
from smalti.core.results import Quantized


class Encoder(nn.Module, ABC):
    """signal `(B, C, *size)` -> latents `(B, D, *grid)`."""

    strides: tuple[int, ...]
    """How far each stage downsamples every dimension; their product is the "f" of f4, f8, f16."""
    time_strides: tuple[int, ...] = ()
    """How far each stage downsamples the first dimension of clips, time; () where it does as the others."""
    is_per_frame: bool = False
    """Whether it takes each frame of a clip by itself; what decodes its latents does likewise."""

    @abstractmethod
    def forward(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Latents; most encoders heed no conditions."""

    @abstractmethod
    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Grid of the latents of a signal of this size.

        Raises:
            InputError: when the encoder cannot halve this size as often as it has strides.
        """


class Decoder(nn.Module, ABC):
    """latents `(B, D, *grid)` -> parameters of a likelihood `(B, P, *size)`."""

    num_classes: int = 0
    """Labels that it is told; 0 for one that heeds none."""

    @abstractmethod
    def forward(
        self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *size"]: ...


class Quantizer(nn.Module, ABC):
    """latents -> codes -> latents, with G codebooks of K codes a position."""

    num_codebooks: int
    num_codes: int
    dim: int
    """Channels of the latents: G times the dimension of one code."""

    @abstractmethod
    def forward(self, latents: Float[Tensor, "b d *grid"]) -> Quantized:
        """Quantize; in training mode a codebook that learns from statistics also takes its step."""

    @abstractmethod
    def encode(self, latents: Float[Tensor, "b d *grid"]) -> Int64[Tensor, "b g *grid"]: ...

    @abstractmethod
    def decode(self, codes: Int64[Tensor, "b g *grid"]) -> Float[Tensor, "b d *grid"]: ...


class Likelihood(ABC):
    """A distribution over signals, as a decoder parametrises it."""

    has_mean: bool = True
    """Whether `mean` is known; of an autoregressive one it is not."""

    @abstractmethod
    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """ln p of each element, nats."""

    @abstractmethod
    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """A draw; a temperature below 1 keeps it nearer to what is most probable, 0 takes just that."""

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

    parameters_per_channel: int
    """Decoder channels for each signal channel."""
    num_classes: int = 0
    """Labels that it is told; 0 for one that heeds none."""

    @abstractmethod
    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> Likelihood:
        """The member; only a family that is itself a network heeds conditions."""
