"""Abstract classes of the parts of a model and their configs: encoder, quantizer, decoder, likelihood.

A part is a module with a keyword constructor. Its config holds the same settings as plain data; `build`
creates the module for a given signal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from smalti.core.coders import SymbolCoder
from smalti.core.conditions import NO_SIZES, Conditions
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.locality import Extent, ReceptiveField
from smalti.core.pretrained import Pretrained, settings_of
from smalti.core.registry import Registry
from smalti.core.results import Quantized
from smalti.core.signals import SignalSpec


class Encoder(nn.Module, ABC):
    """A network signal `(B, C, *size)` -> latents `(B, D, *grid)`."""

    strides: tuple[int, ...]
    """Downsampling factor of each stage, along every axis; their product is the "f" of f4, f8, f16."""
    time_strides: tuple[int, ...] = ()
    """Downsampling factor of each stage along the time axis of clips; () if it equals `strides`."""
    is_per_frame: bool = False
    """True if each frame of a clip is encoded independently, and must be decoded independently."""

    @abstractmethod
    def forward(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Compute the latents; most encoders ignore the conditions."""

    @abstractmethod
    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Compute the latent grid of a signal of this size.

        Raises:
            InputError: if the strides do not divide the size.
        """

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Signal positions that a latent depends on, along the first axis; None, by default, for all.

        An encoder that returns one also has `within`. Its latents then depend on nothing else, such as
        statistics over time, and signals of any length are encoded in windows of one shape.
        """
        return None

    def within(
        self, signal: Float[Tensor, "b c *size"], extent: Extent, conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Compute the latents of windows of longer signals.

        Latents whose receptive field is in the window, or beyond the signal's ends, are those of the whole
        signal; the others may have any value.

        Args:
            signal: windows; any values beyond the ends of a signal.
            extent: part of each window that lies within its signal.
            conditions: of each signal.
        """
        raise NotImplementedError(f"{type(self).__name__} has a receptive field, but no method within")


class EncoderConfig(Configuration):
    """Settings of an encoder."""

    @abstractmethod
    def build(self, signal: SignalSpec, dim: int) -> Encoder:
        """Build the untrained encoder.

        Args:
            signal: channels, size and domain of the data.
            dim: number of latent channels.

        Raises:
            InputError: if it cannot encode such a signal.
        """

    def with_strides(self, strides: Sequence[int]) -> EncoderConfig:
        """Return these settings with other strides, for another level of a hierarchy.

        Raises:
            InputError: if the config has no field `strides`.
        """
        if "strides" not in type(self).model_fields:
            raise InputError(
                f"expected an encoder with strides for a hierarchy, received a {type(self).__name__}: use "
                "encoder.kind=conv, or add a field `strides` to the config"
            )
        return self.changed({"strides": tuple(strides)})


class Decoder(nn.Module, ABC):
    """A network latents `(B, D, *grid)` -> parameters of a likelihood `(B, P, *size)`."""

    condition_sizes: Mapping[str, int] = NO_SIZES
    """Number of ids of each condition that it embeds itself, by name."""
    predicted: tuple[str, ...] = ()
    """Names of what it predicts beside the parameters of the likelihood, see `predictions`."""

    @abstractmethod
    def forward(
        self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *size"]:
        """Compute the parameters of the likelihood.

        A decoder that reads conditions, other than labels and by conditioners, lists their names in an
        attribute `condition_names`. Bounds on ln p(x) name them, and are measured without any others.
        """

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Latents that a position depends on, along the first axis; None, by default, for all of them.

        A decoder that returns one also has `within`, and signals of any length are decoded in windows.
        """
        return None

    def within(
        self, latents: Float[Tensor, "b d *grid"], extent: Extent, conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *size"]:
        """Compute the parameters for windows of longer signals; see `Encoder.within`."""
        raise NotImplementedError(f"{type(self).__name__} has a receptive field, but no method within")

    def predictions(
        self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None = None
    ) -> dict[str, Tensor]:
        """Compute what it predicts beside the parameters, by the names of `predicted`; by default nothing.

        A `PredictionTerm` of an objective trains it, in a pass of its own: labels that training hides are
        drawn anew.
        """
        return {}


class Quantizer(Pretrained, ABC):
    """A module latents -> codes -> latents, with G codes per position, each one of K."""

    num_codebooks: int
    """Number G of codes per position."""
    num_codes: int
    """Number K of codes in each codebook."""
    dim: int
    """Number of latent channels."""
    config: Any
    """The `QuantizerConfig` that builds an equal quantizer."""
    layout: Any = None
    """Position of the channel axis, for quantizers with a choice; a dataclass with `channel_last`."""
    is_per_position: bool = True
    """True if the codes of a position depend on the latents of that position alone, and the reverse."""

    @abstractmethod
    def forward(self, latents: Float[Tensor, "b d *grid"]) -> Quantized:
        """Quantize latents; in training mode, codebooks learned from statistics are also updated."""

    @abstractmethod
    def encode(self, latents: Float[Tensor, "b d *grid"]) -> Int64[Tensor, "b g *grid"]:
        """Compute the codes of latents."""

    @abstractmethod
    def decode(self, codes: Int64[Tensor, "b g *grid"]) -> Float[Tensor, "b d *grid"]:
        """Look up the latents of codes."""

    def code_grid(self, grid: Sequence[int]) -> tuple[int, ...]:
        """Compute the grid of the codes of latents with this grid: by default the same.

        Raises:
            InputError: if it cannot quantize latents with this grid.
        """
        return tuple(grid)

    def first(self, num: Any) -> Quantizer:
        """Return a copy for the first codes of each position alone.

        Residual quantizers have one: it encodes to the first `num` codes of this quantizer's.

        Raises:
            InputError: for a number that is not 1 to G, or if the first codes mean nothing alone.
        """
        raise InputError(
            f"expected a residual quantizer, whose first codes can be used alone, received {self.title}: use "
            "all codes"
        )

    @property
    def codebook_ids(self) -> tuple[int, ...]:
        """Codebook of each of the G codes of a position; by default each code has its own."""
        return tuple(range(self.num_codebooks))

    @property
    def title(self) -> str:
        """Name of the quantizer in tables."""
        return type(self).__name__

    def settings(self) -> dict[str, Any]:
        """Return the config, and whether the channels are the last axis, as plain JSON values."""
        return {"config": settings_of(self), "channel_last": bool(self.layout and self.layout.channel_last)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Quantizer:
        """Build the untrained quantizer, of any class; `from_pretrained` checks the class."""
        quantizer = QUANTIZERS.parse(settings["config"]).build()
        if settings["channel_last"]:
            quantizer.layout = replace(quantizer.layout, channel_last=True)
        return quantizer


class QuantizerConfig(Configuration):
    """Settings of a quantizer."""

    @abstractmethod
    def build(self) -> Quantizer:
        """Build the untrained quantizer."""


class Likelihood(ABC):
    """A distribution over signals, parametrised by the output of a decoder."""

    has_mean: bool = True
    """True if `mean` is known in closed form, which it is not for an autoregressive likelihood."""

    @abstractmethod
    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Compute ln p of each element, in nats."""

    @abstractmethod
    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """Draw signals.

        Args:
            generator: random generator of the draws.
            temperature: values below 1 move draws towards the mode; 0 returns the mode.
        """

    @abstractmethod
    def mean(self) -> Float[Tensor, "b c *size"]:
        """Compute the mean signal, in the model's range."""

    def code(self, levels: Int64[Tensor, "b c *size"], coder: SymbolCoder) -> None:
        """Pass the level of every element to an entropy coder, with its probabilities given those before it.

        Args:
            levels: known to an encoder; a decoder sets them in place. The first side may be shorter than that
                of the likelihood, whose remaining elements are padding.
            coder: encodes or decodes them.

        Raises:
            InputError: if there are no such probabilities, as by default.
        """
        raise InputError(
            f"expected a likelihood of exact levels for lossless compression, received a "
            f"{type(self).__name__}, which has none: leave out --lossless, or define its method code"
        )

    def straight_through_mean(self) -> Float[Tensor, "b c *size"]:
        """Compute `mean()` for losses: values that it clips to the model's range keep a gradient.

        By default it has the gradient of `mean()`.
        """
        return self.mean()

    def known_mean(self) -> Float[Tensor, "b c *size"] | None:
        """Return `mean()`, or None if it is unknown."""
        return self.mean() if self.has_mean else None

    def mean_or_draw(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """Return `mean()`, or a draw if it is unknown."""
        return self.mean() if self.has_mean else self.sample(generator, temperature)


class LikelihoodFamily(nn.Module, ABC):
    """A parametric family of likelihoods: maps the output of a decoder to a `Likelihood`."""

    kind: str = ""
    """Name in tables: the `kind` of its config."""
    num_parameters: int
    """Number of channels that the decoder must output."""
    frame: int = 1
    """Elements of the signal for each position of the decoder's output, along an axis."""
    condition_sizes: Mapping[str, int] = NO_SIZES
    """Number of ids of each condition that it embeds itself, by name."""
    is_density: bool = False
    """True if `log_prob` is a log-density of continuous values rather than a log-probability of levels."""
    gives_logits: bool = False
    """True for a softmax whose parameters `(B, C*L, *size)` are the logits of each element's levels; an
    autoregressive network outputs these directly, and draws from them as from codes."""
    is_per_position: bool = False
    """True if a position's likelihood has a mean, and depends on the parameters of that position alone."""
    is_per_element: bool = True
    """True if the decoder sets all parameters of each element's distribution, so that none is shared."""

    @abstractmethod
    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> Likelihood:
        """Create the likelihood of these parameters; only families that are networks use the conditions."""


class LikelihoodConfig(Configuration):
    """Settings of a likelihood family."""

    @abstractmethod
    def build(self, signal: SignalSpec) -> LikelihoodFamily:
        """Build the family for signals with these channels and this domain."""


class DecoderConfig(Configuration):
    """Settings of a decoder."""

    @abstractmethod
    def build(
        self,
        signal: SignalSpec,
        dim: int,
        encoder: Encoder,
        likelihood: LikelihoodFamily,
        conditions: Mapping[str, int] | None = None,
    ) -> tuple[Decoder, LikelihoodFamily]:
        """Build the untrained decoder and the likelihood family that its output parametrises.

        The family is `likelihood`, except for autoregressive decoders, which use `likelihood` as the
        conditional distribution of each element.

        Args:
            signal: channels, size and domain of the data.
            dim: number of latent channels.
            encoder: its downsampling is reversed by a decoder without strides of its own.
            likelihood: likelihood family of the signal.
            conditions: number of ids of each id condition of the data, by name (`label`, `action`, ...). A
                decoder embeds those that it knows, and ignores the others.

        Raises:
            InputError: if the parts do not fit each other or the signal.
        """

    def for_any_encoder(self) -> DecoderConfig:
        """Return these settings without those that follow from the encoder; by default there are none."""
        return self

    def between_levels(self) -> DecoderConfig:
        """Return the settings of the decoders between the levels of a hierarchy, which read no conditions."""
        return self


ENCODERS = Registry("encoder", EncoderConfig, "smalti.encoders")
DECODERS = Registry("decoder", DecoderConfig, "smalti.decoders")
QUANTIZERS = Registry("quantizer", QuantizerConfig, "smalti.quantizers")
LIKELIHOODS = Registry("likelihood", LikelihoodConfig, "smalti.likelihoods")

AnyEncoder = Annotated[EncoderConfig, ENCODERS]
AnyDecoder = Annotated[DecoderConfig, DECODERS]
AnyQuantizer = Annotated[QuantizerConfig, QUANTIZERS]
AnyLikelihood = Annotated[LikelihoodConfig, LIKELIHOODS]
