"""Networks and likelihood shared by the models, so that comparisons of models keep them equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.models import ModelConfig
from smalti.core.parts import (
    AnyDecoder,
    AnyEncoder,
    AnyLikelihood,
    Decoder,
    Encoder,
    LikelihoodFamily,
)
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig


class NetworksConfig(ModelConfig):
    """Encoder, decoder and likelihood: base of the configs of models with one of each."""

    encoder: AnyEncoder = ConvEncoderConfig()
    decoder: AnyDecoder = ConvDecoderConfig()
    likelihood: AnyLikelihood = LogisticMixtureConfig()


def tiny_networks() -> dict[str, Any]:
    """The smallest configs with every part, for tests."""
    return {
        "encoder": ConvEncoderConfig.tiny(),
        "decoder": ConvDecoderConfig.tiny(),
        "likelihood": LogisticMixtureConfig(components=2),
    }


def build_networks(
    config: NetworksConfig, signal: SignalSpec, encoded: int, decoded: int, num_classes: int = 0
) -> tuple[Encoder, Decoder, LikelihoodFamily]:
    """Build the networks of a model.

    Args:
        config: settings of the parts.
        signal: channels, size and levels of the data.
        encoded: output channels of the encoder.
        decoded: input channels of the decoder.
        num_classes: number of labels that the decoder may be conditioned on.

    Raises:
        InputError: if the parts do not fit each other or the signal.
    """
    encoder = config.encoder.build(signal, encoded)
    likelihood = config.likelihood.build(signal)
    decoder, likelihood = config.decoder.build(signal, decoded, encoder, likelihood, num_classes)
    return encoder, decoder, likelihood


@final
class ForeignEncoder(Encoder):
    """Wraps any module as an encoder that maps `(B, C, *size)` to `(B, D, *grid)`, without conditions.

    Args:
        module: the encoder.
        signal: of the data; the downsampling factor is measured by encoding one signal of zeros.

    Raises:
        InputError: if the output has no grid whose sides divide those of the signal.
    """

    def __init__(self, module: nn.Module, signal: SignalSpec) -> None:
        super().__init__()
        self.module = module
        latents = _shape(module, signal)
        grid = latents[2:]
        if len(grid) != signal.ndim or any(side % n for side, n in zip(signal.size, grid, strict=True)):
            raise InputError(
                f"expected an encoder that maps (B, {signal.channels}, {_by(signal.size)}) to (B, D, *grid) "
                f"with {signal.ndim} axes that divide the size, received an output of shape {latents}: "
                "reshape it, or use signals of another size"
            )
        factors = [side // n for side, n in zip(signal.size, grid, strict=True)]
        self.dim = latents[1]
        self.strides = (factors[-1],)
        self.time_strides = (factors[0],) if factors[0] != factors[-1] else ()
        self._factors = tuple(factors)

    def forward(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Output of the wrapped module."""
        return self.module(signal)

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        if any(side % factor for side, factor in zip(size, self._factors, strict=True)):
            raise InputError(
                f"expected a size whose sides are multiples of {_by(self._factors)}, received {_by(size)}: "
                "use signals of a matching size"
            )
        return tuple(side // factor for side, factor in zip(size, self._factors, strict=True))


@final
class ForeignDecoder(Decoder):
    """Wraps any module as a decoder that maps `(B, D, *grid)` to `(B, P, *size)`, without conditions."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *size"]:
        """Output of the wrapped module."""
        return self.module(latents)


def configs_of(**parts: nn.Module) -> dict[str, Any] | None:
    """Configs of parts by name, or None if a part has no config (a third-party module)."""
    configs = {name: getattr(part, "config", None) for name, part in parts.items()}
    return None if any(not isinstance(each, Configuration) for each in configs.values()) else configs


def as_encoder(module: nn.Module, signal: SignalSpec, dim: int) -> Encoder:
    """Return an encoder unchanged, or wrap any other module as one.

    Args:
        module: the encoder.
        signal: of the data.
        dim: number of channels that its latents must have.

    Raises:
        InputError: if the latents of a wrapped module do not fit.
    """
    if isinstance(module, Encoder):
        return module
    encoder = ForeignEncoder(module, signal)
    if encoder.dim != dim:
        raise InputError(
            f"expected an encoder with {dim} output channels, received one with {encoder.dim}: "
            "end it with a 1x1 convolution, or choose the quantizer's dim"
        )
    return encoder


def as_decoder(module: nn.Module) -> Decoder:
    """Return a decoder unchanged, or wrap any other module as one."""
    return module if isinstance(module, Decoder) else ForeignDecoder(module)


@torch.no_grad()
def _shape(module: nn.Module, signal: SignalSpec) -> tuple[int, ...]:
    was_training = module.training
    module.eval()  # the probe of zeros must not update batch statistics
    first = next(module.parameters(), torch.empty(0))
    out = module(torch.zeros(1, signal.channels, *signal.size, device=first.device))
    module.train(was_training)
    return tuple(out.shape)


def _by(size: Sequence[int]) -> str:
    return "x".join(str(side) for side in size)
