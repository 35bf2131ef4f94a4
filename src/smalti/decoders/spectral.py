"""A decoder of waveforms by their short-time spectra: Vocos."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditioners import Conditioner
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.locality import Extent, ReceptiveField
from smalti.core.parts import DECODERS, Encoder, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.decoders.conditioned import ConditionedDecoder, UpsamplingConfig
from smalti.nn.convnext import ConvNeXtBlock
from smalti.nn.frames import SpectraToWaveform
from smalti.nn.receptive import receptive_field, within
from smalti.nn.seanet import TimeConvolution, TimeUpsampling
from smalti.nn.spectral import FLOOR, MU_LAW_LEVELS

Size = Literal["S", "B", "L"]
SIZES: dict[Size, tuple[int, int]] = {"S": (192, 5), "B": (384, 8), "L": (512, 12)}
"""Channels and number of blocks, by the name of a size."""


@final
class SpectralDecoder(ConditionedDecoder):
    """ConvNeXt blocks at the rate of spectral frames, and an inverse short-time Fourier transform.

    Siuzdak 2023, Vocos (arXiv 2306.00814). All layers work at the rate of the frames, so it takes a fraction
    of the time of networks with layers at the rate of the samples.

    Args:
        dim: channels of the latents.
        size: "S", "B" or "L": 192 channels and 5 blocks, 384 and 8, or 512 and 12.
        channels: None for those of the size.
        layers: number of blocks; None for that of the size.
        hop: samples between frames.
        window: samples of a frame: an even number, two or more times the hop.
        rate: frames of a latent.
        causal: whether positions depend on no later latents.
        conditions: number of ids of each id condition of the data, by name; the decoder embeds `label` (for
            example the speaker).
        label_dropout: share of the labels that training hides, so that items without a label can be decoded.
        conditioners: modules for the activations of the first convolution, on the latents' grid.

    Raises:
        InputError: if the window does not fit the hop.
    """

    def __init__(
        self,
        dim: int = 64,
        *,
        size: Size = "S",
        channels: int | None = None,
        layers: int | None = None,
        hop: int = 160,
        window: int = 640,
        rate: int = 2,
        causal: bool = False,
        conditions: Mapping[str, int] | None = None,
        label_dropout: float = 0.1,
        conditioners: Mapping[str, Conditioner] | None = None,
    ) -> None:
        width, depth = channels or SIZES[size][0], layers or SIZES[size][1]
        first = TimeConvolution(dim, width, 7, causal=causal)
        super().__init__(first, width, conditions, label_dropout, conditioners)
        self.config = SpectralDecoderConfig(
            size=size,
            channels=channels,
            layers=layers,
            hop=hop,
            window=window,
            strides=(rate, hop),
            causal=causal,
            use_labels=self.label is not None,
            label_dropout=label_dropout,
            conditioners=self.conditioners.configs(),
        )
        self.stride = rate * hop
        spectra = nn.Conv1d(width, window + 2, 1)
        with torch.no_grad():
            # Begin with quiet spectra.
            assert spectra.bias is not None
            spectra.bias[: window // 2 + 1] += math.log(FLOOR) / 2
        self.layers = nn.Sequential(
            *([TimeUpsampling(width, width, rate, causal)] if rate > 1 else []),
            *(ConvNeXtBlock(width, 1 / depth, causal) for _ in range(depth)),
            spectra,
            SpectraToWaveform(hop, window, causal),
        )

    def upsampled(self, x: Float[Tensor, "b c *grid"]) -> Float[Tensor, "b p *size"]:
        """Apply the layers after the first one."""
        return self.layers(x)

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Of the convolutions and the frames; None with conditioners."""
        if len(self.conditioners):
            return None
        return receptive_field(nn.Sequential(self.first, *self.layers), self.stride, 1)

    def within(
        self, latents: Float[Tensor, "b d *grid"], extent: Extent, conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *size"]:
        """Parameters of the likelihood for windows of longer signals."""
        x = within([self.first], latents, extent)
        return within(self.layers, self.conditioned(x, conditions), extent)


@DECODERS.register
class SpectralDecoderConfig(UpsamplingConfig):
    """Settings of a `SpectralDecoder`.

    Attributes:
        strides: their product is the number of samples of a latent, a multiple of the hop.
        causal: None for that of the encoder, if it has one.
    """

    kind: Literal["spectral"] = "spectral"
    size: Size = "S"
    channels: int | None = Field(default=None, ge=1)
    layers: int | None = Field(default=None, ge=1)
    hop: int = Field(default=160, ge=1, le=1 << 16)
    window: int = Field(default=640, ge=2, le=1 << 16)
    causal: bool | None = None

    @classmethod
    def tiny(cls) -> SpectralDecoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=4, layers=1, hop=2, window=8)

    def build(
        self,
        signal: SignalSpec,
        dim: int,
        encoder: Encoder,
        likelihood: LikelihoodFamily,
        conditions: Mapping[str, int] | None = None,
    ) -> tuple[SpectralDecoder, LikelihoodFamily]:
        """Build the decoder; the likelihood is unchanged.

        Raises:
            InputError: if the signal is not a waveform in linear levels, the likelihood has other parameters
                than a mean, or the hop does not divide the samples of a latent.
        """
        if signal.sample_rate_hz is not None and signal.levels == MU_LAW_LEVELS:
            raise InputError(
                "expected linear levels for a decoder of kind spectral, received mu-law ones, whose spectra "
                "mean nothing: set data.encoding=linear, and model.encoder.companded=false"
            )
        if (signal.channels, signal.ndim) != (1, 1) or likelihood.num_parameters != 1:
            raise InputError(
                "expected a waveform (one channel, one axis) and a likelihood of its mean for a decoder of "
                f"kind spectral, received {signal.channels} channels, {signal.ndim} axes and "
                f"{likelihood.num_parameters} parameters: use model.likelihood.kind=gaussian, or another "
                "decoder"
            )
        settings = self.resolved(encoder, conditions)
        stride = math.prod(settings["strides"])
        if stride % self.hop:
            raise InputError(
                f"expected a hop that divides the {stride} samples of a latent, received {self.hop}: set "
                f"model.decoder.hop={stride} or a divisor of it, and a window of four hops"
            )
        decoder = SpectralDecoder(
            dim,
            size=self.size,
            channels=self.channels,
            layers=self.layers,
            hop=self.hop,
            window=self.window,
            rate=stride // self.hop,
            causal=bool(getattr(encoder, "causal", False)) if self.causal is None else self.causal,
            conditions=settings["conditions"],
            label_dropout=self.label_dropout,
            conditioners=self.build_conditioners(self.channels or SIZES[self.size][0]),
        )
        return decoder, likelihood
