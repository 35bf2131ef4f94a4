"""Hierarchy of code grids: coarse codes for the overall structure, finer codes for the details."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Batch, Conditions
from smalti.core.config import Configuration
from smalti.core.distortion import loss_of
from smalti.core.errors import InputError
from smalti.core.models import MODELS, Autoencoder, ForwardPass, ModelConfig
from smalti.core.parts import (
    AnyDecoder,
    AnyEncoder,
    AnyLikelihood,
    AnyQuantizer,
    Decoder,
    Encoder,
    Likelihood,
    LikelihoodFamily,
    Quantizer,
)
from smalti.core.precision import in_full_precision
from smalti.core.results import Loss, Quantized
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.encoders.strided import fitting_grid
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig
from smalti.models.networks import check_fit, configs_of, output_shape
from smalti.nn.blocks import CONVOLUTIONS
from smalti.nn.levels import Levels
from smalti.nn.symbols import check_codes
from smalti.quantizers.vq import VectorQuantizerConfig

Factor = Annotated[int, Field(ge=2)]


@final
class Hierarchy(Autoencoder):
    """VQ-VAE-2, Razavi et al. 2019 (arXiv 1906.00446), with any number of levels.

    Encoding is bottom-up: each encoder takes the features of the level below it. Quantization is top-down:
    the latents of a level are computed from its features and the decoded codes of all levels above it, and
    the decoder of the signal takes the codes of every level. The codes of all levels are packed into one
    tensor over the coarsest grid (`Levels`), coarsest level first.

        loss = -log p(x | codes) / dims + the quantizer's loss of each level

    Args:
        encoders: one per level, finest first; each takes the features of the one before it.
        projections: from the features of a level, concatenated with the maps from above, to the quantizer's
            latents.
        quantizers: one per level, each with its own codebook.
        decoders: one per level. That of the finest level outputs the parameters of the likelihood; each
            other one outputs the maps that condition the level below it.
        likelihood: of the signal.
        signal: channels, size and levels of the data.
        factors: ratio of each level's resolution to the one above it, from the second coarsest on.

    Raises:
        InputError: if the strides do not divide the signal's size, or the parts do not fit.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        projections: Sequence[nn.Module],
        quantizers: Sequence[Quantizer],
        decoders: Sequence[Decoder],
        likelihood: LikelihoodFamily,
        signal: SignalSpec,
        factors: Sequence[int] = (2,),
    ) -> None:
        super().__init__()
        _check_levels(encoders, projections, quantizers, decoders, factors)
        self.signal = signal
        grid = tuple(signal.size)
        for encoder in encoders:
            grid = encoder.grid(grid)
        self._grid = grid
        # The parts of the finest level have the same names as in every other model; each is registered once.
        self.encoder, self.coarser_encoders = encoders[0], nn.ModuleList(encoders[1:])
        self.quantizers = cast("list[Quantizer]", nn.ModuleList(quantizers))
        self.projections = nn.ModuleList(projections)
        self.family = likelihood
        self.decoder, self.coarser_decoders = decoders[0], nn.ModuleList(decoders[1:])
        self.num_codes = quantizers[0].num_codes
        self.levels = self.code_layout = Levels(quantizers[0].num_codebooks, tuple(factors), signal.ndim)
        self.num_codebooks = sum(self.levels.sizes)
        finest = self.levels.grids(grid)[-1]
        expected = encoders[0].grid(signal.size)
        if finest != expected:
            raise InputError(
                f"expected factors between levels that make the finest grid {expected}, received "
                f"{tuple(factors)}, which make {finest}: pass the strides of the coarser encoders"
            )
        for quantizer, own in zip(quantizers, reversed(self.levels.grids(grid)), strict=True):
            if quantizer.code_grid(own) != own:
                raise InputError(
                    "expected quantizers with codes at each position of a level, received "
                    f"{quantizer.title}: use it with model.kind=vqvae, or choose another quantizer.kind"
                )
        check_fit(self.decoder, likelihood, signal, self._num_latent_channels(grid), finest)

    def settings(self) -> dict[str, Any]:
        """Return the settings of every `Autoencoder`; the config of injected parts is found at this call.

        Raises:
            InputError: if the parts are not those that a `HierarchyConfig` builds.
        """
        if self.config is None:
            self.config = HierarchyConfig.of(self)
        return super().settings()

    @property
    def encoders(self) -> list[Encoder]:
        """Encoders of all levels, finest first."""
        return cast("list[Encoder]", [self.encoder, *self.coarser_encoders])

    @property
    def decoders(self) -> list[Decoder]:
        """Decoders of all levels, finest first."""
        return cast("list[Decoder]", [self.decoder, *self.coarser_decoders])

    @property
    def title(self) -> str:
        """Display name: the number of levels and the name of the quantizer."""
        return f"VQ-VAE of {len(self.encoders)} levels, {self.quantizers[0].title}"

    @property
    def stride(self) -> int:
        """Signal positions per coarsest code, along an axis."""
        return math.prod(math.prod(encoder.strides) for encoder in self.encoders)

    @property
    def strides(self) -> tuple[int, ...]:
        """Signal positions per coarsest code along each axis."""
        return (self.stride,) * self.signal.ndim

    @property
    def grid(self) -> tuple[int, ...]:
        """Size of the coarsest grid."""
        return self._grid

    @property
    def num_channels(self) -> tuple[int, int]:
        """Numbers of channels of the finest features, and of the maps from the levels above."""
        features = output_shape(self.encoder, (1, self.signal.channels, *self.signal.size))[1]
        return features, self._num_latent_channels(self.grid) - self.quantizers[0].dim

    def loss(self, batch: Batch) -> Loss:
        """Distortion plus the loss of every level (0 is the finest); logs the distortion in bits/dim."""
        return loss_of(self.forward_pass(batch), batch, self.signal.domain)

    def forward_pass(self, batch: Batch) -> ForwardPass:
        """Encode, quantize and decode; the loss of latents is the sum of the quantizers'."""
        quantized, latents = self._quantized(batch.data)
        output = self.decoder(latents, batch.conditions)
        terms = {
            f"{name}_{level}": value
            for level, each in enumerate(quantized)
            for name, value in each.terms.items()
        }
        if all("batch_usage" in each.terms for each in quantized):
            terms["batch_usage"] = torch.stack([each.terms["batch_usage"] for each in quantized]).mean()
        latent_loss = torch.stack([each.loss for each in quantized]).sum()
        return ForwardPass(output, self.family(output, batch.conditions), latent_loss, terms)

    @torch.no_grad()
    @in_full_precision
    def encode(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Int64[Tensor, "b g *grid"]:
        """Encode signals in [-1, 1] to the codes of all levels."""
        quantized, _ = self._quantized(signal)
        return self.levels.pack([each.codes for each in quantized[::-1]])

    @property
    def codebook_ids(self) -> tuple[int, ...]:
        """Codebook of each of the G codes of a position, coarsest level first."""
        return self.levels.codebook_ids

    def likelihood(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions | None = None
    ) -> Likelihood:
        """p(x | codes, label).

        Raises:
            InputError: if a code is out of range, or the number of codebooks is wrong.
        """
        check_codes(codes, self.num_codebooks, self.num_codes)
        return self._decoded(self._latents(codes), conditions)

    def _latents(self, codes: Int64[Tensor, "b g *grid"]) -> Float[Tensor, "b d *finest"]:
        """Latents of the finest level, concatenated with the maps from above."""
        by_level = self.levels.unpack(codes)[::-1]
        known = None
        for level in reversed(range(1, len(by_level))):
            latents = self.quantizers[level].decode(by_level[level])
            known = self.decoders[level](_concatenated(latents, known))
        return _concatenated(self.quantizers[0].decode(by_level[0]), known)

    def _num_latent_channels(self, grid: Sequence[int]) -> int:
        """Compute the number of input channels of the signal's decoder.

        Raises:
            InputError: if the output of a decoder does not fit the level below.
        """
        grids, known = self.levels.grids(grid)[::-1], 0
        for level in reversed(range(1, len(grids))):
            shape = (1, self.quantizers[level].dim + known, *grids[level])
            made = output_shape(self.decoders[level], shape, grids[level - 1])
            if made[2:] != grids[level - 1]:
                raise InputError(
                    f"expected a decoder of level {level} that maps {grids[level]} to {grids[level - 1]}, "
                    f"received an output of shape {made}: change its strides"
                )
            known = made[1]
        return self.quantizers[0].dim + known

    def _quantized(
        self, signal: Float[Tensor, "b c *size"]
    ) -> tuple[list[Quantized], Float[Tensor, "b d *finest"]]:
        """Quantize a signal at each level, finest first, and compute the latents of the finest decoder."""
        features: list[Tensor] = []
        for encoder in self.encoders:
            features.append(encoder(features[-1].relu() if features else signal))
        quantized: list[Quantized] = []
        known = latents = None
        for level in reversed(range(len(features))):
            if latents is not None:
                known = self.decoders[level + 1](latents)
            quantized.insert(
                0, self.quantizers[level](self.projections[level](_concatenated(features[level], known)))
            )
            latents = _concatenated(quantized[0].latents, known)
        assert latents is not None
        return quantized, latents

    def _decoded(self, latents: Float[Tensor, "b d *finest"], conditions: Conditions | None) -> Likelihood:
        return self.family(self.decoder(latents, conditions), conditions)


def _check_levels(
    encoders: Sequence[Encoder],
    projections: Sequence[nn.Module],
    quantizers: Sequence[Quantizer],
    decoders: Sequence[Decoder],
    factors: Sequence[int],
) -> None:
    """Check that every level has its parts, and that the codes of all levels fit one tensor.

    Raises:
        InputError: if a part is missing, or the quantizers differ in codes or have the channels last.
    """
    counts = [len(parts) for parts in (encoders, projections, quantizers, decoders)]
    if counts != [len(factors) + 1] * 4:
        raise InputError(
            f"expected {len(factors) + 1} encoders, projections, quantizers and decoders for "
            f"{len(factors)} factors, received {counts}: pass one of each for every level"
        )
    sizes = [(each.num_codebooks, each.num_codes) for each in quantizers]
    if len(set(sizes)) > 1:
        raise InputError(
            f"expected quantizers of equal num_codebooks and num_codes, received {sizes}: build all levels "
            "with the same sizes"
        )
    if any(getattr(each.layout, "channel_last", False) for each in quantizers):
        raise InputError(
            "expected quantizers of latents (B, D, *grid), received one with channel_last=True: build it "
            "without"
        )


def _described(modules: Sequence[nn.Module]) -> list[Any]:
    """Type, config and shapes of each module: equal for modules that can load each other's weights."""
    return [
        (type(each), getattr(each, "config", None), {k: v.shape for k, v in each.state_dict().items()})
        for each in modules
    ]


def _concatenated(maps: Tensor, known: Tensor | None) -> Tensor:
    """Concatenate maps with the maps from above, if any."""
    return maps if known is None else torch.cat([maps, known], 1)


@MODELS.register
class HierarchyConfig(ModelConfig):
    """The parts of a `Hierarchy`.

    Attributes:
        encoder: of the finest level, which takes the signal. Each further level has an encoder of the same
            settings, except for its strides, over the features of the level below it.
        factors: ratio of each level's resolution to the one above it, from the second coarsest on.
        decoder: of each level.
        quantizer: of each level, each with its own codebook.
        likelihood: of the signal.
        features: channels of the features of each level; None for the encoder's `channels`.
        maps: channels of the maps that condition a level on those above; None for the decoder's `channels`.
    """

    decoding_fields: ClassVar[tuple[str, ...]] = ("likelihood",)

    kind: Literal["hierarchy"] = "hierarchy"
    encoder: AnyEncoder = ConvEncoderConfig()
    factors: tuple[Factor, ...] = Field(default=(2,), min_length=1, max_length=32)
    decoder: AnyDecoder = ConvDecoderConfig()
    quantizer: AnyQuantizer = VectorQuantizerConfig()
    likelihood: AnyLikelihood = LogisticMixtureConfig()
    features: int | None = Field(default=None, ge=1)
    maps: int | None = Field(default=None, ge=1)

    @classmethod
    def tiny(cls) -> HierarchyConfig:
        """The smallest config with every part, for tests."""
        return cls(
            encoder=ConvEncoderConfig.tiny().model_copy(update={"strides": (2,)}),
            decoder=ConvDecoderConfig.tiny(),
            quantizer=VectorQuantizerConfig.tiny(),
            likelihood=LogisticMixtureConfig(components=2),
        )

    @classmethod
    def of(cls, model: Hierarchy) -> HierarchyConfig | None:
        """Return the config that builds a model of equal parts; None if there is none."""
        parts = {"encoder": model.encoder, "decoder": model.decoder, "quantizer": model.quantizers[0]}
        configs = configs_of(**parts, likelihood=model.family)
        if configs is None:
            return None
        # Each decoder reverses the strides of its own level.
        configs["decoder"] = configs["decoder"].for_any_encoder()
        features, maps = model.num_channels
        with torch.random.fork_rng(devices=[]):  # the twin's initial weights are not the caller's draws
            try:
                config = cls(**configs, factors=model.levels.factors, features=features, maps=maps)
                twin = config.build(model.signal, model.condition_sizes)
            except ValueError:
                return None
        return config if _described(list(twin.children())) == _described(list(model.children())) else None

    def build(self, signal: SignalSpec, conditions: Mapping[str, int] | None = None) -> Hierarchy:
        """Build the untrained model."""
        features = self._width("features", self.encoder)
        encoders = [self.encoder.build(signal, features)]
        if encoders[0].is_per_frame or encoders[0].time_strides:
            raise InputError(
                "expected a hierarchy whose encoders treat all axes alike, received per_frame or "
                "time_strides: leave both out"
            )
        # Of all levels at once, so that the message is about the size of the signal.
        fitting_grid(signal.size, (*encoders[0].strides, *self.factors[::-1]))
        for factor in self.factors[::-1]:
            coarser = self.encoder.with_strides((factor,))
            encoders.append(coarser.build(SignalSpec(features, signal.size), features))
        quantizers = [self.quantizer.build() for _ in encoders]
        dim, maps = quantizers[0].dim, self._width("maps", self.decoder)
        # The coarsest level has no level above it.
        known = [maps] * len(self.factors) + [0]
        convolution = CONVOLUTIONS[signal.ndim]
        projections = [convolution(features + above, dim, 1) for above in known]
        likelihood = self.likelihood.build(signal)
        decoders = []
        for level, (encoder, above) in enumerate(zip(encoders, known, strict=True)):
            config = self.decoder.between_levels() if level else self.decoder
            output, sizes = (_Maps(maps), None) if level else (likelihood, conditions)
            decoder, family = config.build(signal, dim + above, encoder, output, sizes)
            if family is not output:
                raise InputError(
                    "expected a decoder that outputs the parameters of a given likelihood, received a "
                    f"{type(self.decoder).__name__}, which is autoregressive: use decoder.kind=conv"
                )
            decoders.append(decoder)
        model = Hierarchy(encoders, projections, quantizers, decoders, likelihood, signal, self.factors)
        model.config = self
        return model

    def _width(self, name: str, part: Configuration) -> int:
        """Number of channels between levels: a setting, or the `channels` of a part.

        Raises:
            InputError: if there is neither.
        """
        width = getattr(self, name) or getattr(part, "channels", None)
        if not isinstance(width, int):
            raise InputError(
                f"expected model.{name}, since a {type(part).__name__} has no channels, received none: set it"
            )
        return width


@final
class _Maps(LikelihoodFamily):
    """The output of a decoder between levels, in place of a likelihood.

    Args:
        channels: number of maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_parameters = channels

    def forward(
        self, parameters: Float[Tensor, "b p *size"], conditions: Conditions | None = None
    ) -> Likelihood:
        """Raise `TypeError`: the maps are the input of the decoder below, and have no likelihood."""
        raise TypeError("expected the decoder below to read these maps: they parametrise no likelihood")
