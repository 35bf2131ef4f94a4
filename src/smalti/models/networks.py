"""What the models share, so that a comparison of them compares nothing else: networks and likelihood."""

from __future__ import annotations

from smalti.decoders.conv import ConvDecoder, ConvDecoderConfig
from smalti.encoders.conv import ConvEncoder, ConvEncoderConfig
from smalti.interfaces import Configuration, LikelihoodFamily, SignalSpec
from smalti.likelihoods import LikelihoodConfig, LogisticMixtureConfig, build_likelihood


class NetworksConfig(Configuration):
    """Encoder, decoder and likelihood; the base of every model's config."""

    encoder: ConvEncoderConfig = ConvEncoderConfig()
    decoder: ConvDecoderConfig = ConvDecoderConfig()
    likelihood: LikelihoodConfig = LogisticMixtureConfig()


TINY = NetworksConfig(
    encoder=ConvEncoderConfig.tiny(),
    decoder=ConvDecoderConfig.tiny(),
    likelihood=LogisticMixtureConfig(components=2),
)
"""The smallest that still have every part."""


def build_networks(
    config: NetworksConfig, signal: SignalSpec, encoded: int, decoded: int
) -> tuple[ConvEncoder, ConvDecoder, LikelihoodFamily]:
    """The networks of a model.

    Args:
        config: their sizes.
        signal: channels, size and levels of the data.
        encoded: channels that the encoder gives at each position.
        decoded: channels of the latents that the decoder takes.
    """
    encoder = ConvEncoder(config.encoder, signal, encoded)
    family = build_likelihood(config.likelihood, signal)
    parameters = signal.channels * family.parameters_per_channel
    decoder = ConvDecoder(config.decoder, signal.ndim, decoded, parameters, encoder.strides[::-1])
    return encoder, decoder, family
