"""A decoder of waveforms by their short-time spectra: Vocos."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import nn

from smalti.core.conditioners import Conditioner
from smalti.core.errors import InputError
from smalti.core.parts import DECODERS, Encoder, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.decoders.conditioned import UpsamplingConfig
from smalti.decoders.sequence import SequenceDecoder
from smalti.nn.convnext import ConvNeXtBlock
from smalti.nn.frames import SpectraToWaveform
from smalti.nn.seanet import TimeConvolution, TimeUpsampling
from smalti.nn.spectral import FLOOR, MU_LAW_LEVELS

Size = Literal["S", "B", "L"]
SIZES: dict[Size, tuple[int, int]] = {"S": (192, 5), "B": (384, 8), "L": (512, 12)}
"""Channels and number of blocks, by the name of a size."""


@final
class SpectralDecoder(SequenceDecoder):
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
        rest = (
            *blocks(width, depth, rate, causal),
            quiet(nn.Conv1d(width, window + 2, 1), window // 2 + 1),
            SpectraToWaveform(hop, window, causal),
        )
        super().__init__(first, width, rest, rate * hop, conditions, label_dropout, conditioners)
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


def blocks(width: int, depth: int, rate: int, causal: bool = False) -> Iterator[nn.Module]:
    """The layers from the rate of latents to that of frames, and over frames.

    Args:
        width: number of channels.
        depth: number of ConvNeXt blocks.
        rate: frames of a latent.
        causal: whether frames depend on no later latents.
    """
    if rate > 1:
        yield TimeUpsampling(width, width, rate, causal)
    yield from (ConvNeXtBlock(width, 1 / depth, causal) for _ in range(depth))


def quiet(layer: nn.Conv1d, channels: int) -> nn.Conv1d:
    """Return the layer, with a bias so that its first channels begin as log-magnitudes of quiet spectra."""
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias[:channels] += math.log(FLOOR) / 2
    return layer


class SpectraConfig(UpsamplingConfig):
    """Settings of decoders of waveforms by their spectra.

    Attributes:
        strides: their product is the number of samples of a latent, a multiple of the hop.
        size: "S", "B" or "L", see `SIZES`.
        channels, layers: None for those of the size.
        hop: samples between frames.
        window: samples of a frame: an even number, two or more times the hop.
    """

    size: Size = "S"
    channels: int | None = Field(default=None, ge=1)
    layers: int | None = Field(default=None, ge=1)
    hop: int = Field(default=160, ge=1, le=1 << 16)
    window: int = Field(default=640, ge=2, le=1 << 16)

    @classmethod
    def tiny(cls) -> SpectraConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=4, layers=1, hop=2, window=8)

    def arguments(
        self,
        signal: SignalSpec,
        encoder: Encoder,
        likelihood: LikelihoodFamily,
        conditions: Mapping[str, int] | None,
    ) -> dict[str, Any]:
        """Arguments of the decoder, all but `dim`, `causal` and what its kind adds.

        Raises:
            InputError: if the signal is not a waveform in linear levels, the likelihood has other parameters
                than a mean, or the hop does not divide the samples of a latent.
        """
        kind = getattr(self, "kind", type(self).__name__)
        if (signal.channels, signal.ndim) != (1, 1) or likelihood.num_parameters != 1:
            raise InputError(
                "expected a waveform (one channel, one axis) and a likelihood of its mean for a decoder of "
                f"kind {kind}, received {signal.channels} channels, {signal.ndim} axes and "
                f"{likelihood.num_parameters} parameters: use model.likelihood.kind=gaussian, or another "
                "decoder"
            )
        if signal.sample_rate_hz is not None and signal.levels == MU_LAW_LEVELS:
            raise InputError(
                f"expected linear levels for a decoder of kind {kind}, received mu-law ones, whose spectra "
                "mean nothing: set data.encoding=linear, and model.encoder.companded=false"
            )
        settings = self.resolved(encoder, conditions)
        stride = math.prod(settings["strides"])
        if stride % self.hop:
            raise InputError(
                f"expected a hop that divides the {stride} samples of a latent, received {self.hop}: set "
                f"model.decoder.hop={stride} or a divisor of it, and a window of four hops"
            )
        return {
            "size": self.size,
            "channels": self.channels,
            "layers": self.layers,
            "hop": self.hop,
            "window": self.window,
            "rate": stride // self.hop,
            "conditions": settings["conditions"],
            "label_dropout": self.label_dropout,
            "conditioners": self.build_conditioners(self.channels or SIZES[self.size][0]),
        }


@DECODERS.register
class SpectralDecoderConfig(SpectraConfig):
    """Settings of a `SpectralDecoder`.

    Attributes:
        causal: None for that of the encoder, if it has one.
    """

    kind: Literal["spectral"] = "spectral"
    causal: bool | None = None

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
            InputError: if the settings do not fit the signal or the likelihood; see `arguments`.
        """
        arguments = self.arguments(signal, encoder, likelihood, conditions)
        causal = bool(getattr(encoder, "causal", False)) if self.causal is None else self.causal
        return SpectralDecoder(dim, causal=causal, **arguments), likelihood
