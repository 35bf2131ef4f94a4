"""What the models share, so that a comparison of them compares nothing else: networks and likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.parts import Decoder, Encoder, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.decoders.autoregressive import (
    AutoregressiveDecoderConfig,
    AutoregressiveFamily,
    LocalDecoder,
    PixelCNNDecoderConfig,
    WaveNetDecoderConfig,
)
from smalti.decoders.conv import ConvDecoder, ConvDecoderConfig
from smalti.encoders.code_grid import CodeGridEncoder, CodeGridEncoderConfig
from smalti.encoders.context import ContextEncoder, ContextEncoderConfig
from smalti.encoders.conv import ConvEncoder, ConvEncoderConfig
from smalti.encoders.log_mel import LogMelEncoder, LogMelEncoderConfig
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig
from smalti.likelihoods.union import LikelihoodConfig, build_likelihood

EncoderConfig = Annotated[
    ConvEncoderConfig | LogMelEncoderConfig | ContextEncoderConfig | CodeGridEncoderConfig,
    Field(discriminator="kind"),
]
DecoderConfig = Annotated[
    ConvDecoderConfig | WaveNetDecoderConfig | PixelCNNDecoderConfig, Field(discriminator="kind")
]


class NetworksConfig(Configuration):
    """Encoder, decoder and likelihood; the base of every model's config."""

    encoder: EncoderConfig = ConvEncoderConfig()
    decoder: DecoderConfig = ConvDecoderConfig()
    likelihood: LikelihoodConfig = LogisticMixtureConfig()


TINY = NetworksConfig(
    encoder=ConvEncoderConfig.tiny(),
    decoder=ConvDecoderConfig.tiny(),
    likelihood=LogisticMixtureConfig(components=2),
)
"""The smallest that still have every part."""


def build_networks(
    config: NetworksConfig, signal: SignalSpec, encoded: int, decoded: int, num_classes: int = 0
) -> tuple[Encoder, Decoder, LikelihoodFamily]:
    """The networks of a model.

    Args:
        config: their sizes.
        signal: channels, size and levels of the data.
        encoded: channels that the encoder gives at each position.
        decoded: channels of the latents that the decoder takes.
        num_classes: labels that the decoder may be told.

    Raises:
        InputError: when the parts do not fit each other or the signal.
    """
    encoder = build_encoder(config.encoder, signal, encoded)
    family = build_likelihood(config.likelihood, signal)
    match config.decoder:
        case ConvDecoderConfig():
            parameters = signal.channels * family.parameters_per_channel
            decoder = ConvDecoder(
                config.decoder,
                signal.ndim,
                decoded,
                parameters,
                encoder.strides[::-1],
                num_classes,
                encoder.time_strides[::-1],
                encoder.is_per_frame,
            )
            return encoder, decoder, family
        case WaveNetDecoderConfig() | PixelCNNDecoderConfig():
            if isinstance(config.decoder, WaveNetDecoderConfig):
                _check_wavenet(config, signal)
            else:
                _check_pixelcnn(config, signal)
            _check_upsampling(config.decoder, encoder.strides)
            local = LocalDecoder(config.decoder, signal.ndim, decoded)
            return (
                encoder,
                local,
                AutoregressiveFamily(config.decoder, family, signal, encoder.strides, num_classes),
            )


def build_encoder(config: EncoderConfig, signal: SignalSpec, dim: int) -> Encoder:
    """The encoder that a config names."""
    match config:
        case ConvEncoderConfig():
            return ConvEncoder(config, signal, dim)
        case LogMelEncoderConfig():
            return LogMelEncoder(config, signal, dim)
        case ContextEncoderConfig():
            return ContextEncoder(config, signal, dim)
        case CodeGridEncoderConfig():
            return CodeGridEncoder(config, signal, dim)


def _check_wavenet(config: NetworksConfig, signal: SignalSpec) -> None:
    if (signal.channels, signal.ndim) != (1, 1):
        raise InputError(
            f"expected a waveform (one channel, one axis) for a WaveNet decoder, received {signal.channels} "
            f"channels and {signal.ndim} axes: take decoder.kind=conv"
        )
    if config.likelihood.kind == "gaussian":
        raise InputError(
            "expected a likelihood that gives every sample its own shape, received gaussian: take "
            "likelihood.kind=categorical or logistic_mixture"
        )


def _check_pixelcnn(config: NetworksConfig, signal: SignalSpec) -> None:
    if signal.ndim != 2:
        raise InputError(
            f"expected grids of two axes for a PixelCNN decoder, received {signal.ndim}: take "
            "decoder.kind=conv"
        )
    if config.likelihood.kind != "categorical":
        raise InputError(
            f"expected a likelihood of codes, received {config.likelihood.kind}: take "
            "likelihood.kind=categorical"
        )


def _check_upsampling(decoder: AutoregressiveDecoderConfig, strides: Sequence[int]) -> None:
    factor, made = math.prod(strides), math.prod(decoder.upsample)
    if factor % made:
        raise InputError(
            f"expected decoder.upsample to divide the encoder's stride of {factor}, received "
            f"{decoder.upsample}: choose strides whose product divides it"
        )
