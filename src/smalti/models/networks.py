"""Networks and likelihood shared by the models, so that comparisons of models keep them equal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.building import without_values
from smalti.core.conditioners import undescribed_conditioners
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

SMALL = 2**23
"""Maximum number of elements of an output that is computed only for its shape."""


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
    config: NetworksConfig,
    signal: SignalSpec,
    encoded: int,
    decoded: int,
    conditions: Mapping[str, int] | None = None,
) -> tuple[Encoder, Decoder, LikelihoodFamily]:
    """Build the networks of a model.

    Args:
        config: settings of the parts.
        signal: channels, size and levels of the data.
        encoded: output channels of the encoder.
        decoded: input channels of the decoder.
        conditions: number of ids of each id condition of the data, by name.

    Raises:
        InputError: if the parts do not fit each other or the signal.
    """
    encoder = config.encoder.build(signal, encoded)
    likelihood = config.likelihood.build(signal)
    decoder, likelihood = config.decoder.build(signal, decoded, encoder, likelihood, conditions)
    return encoder, decoder, likelihood


@final
class ForeignEncoder(Encoder):
    """Wraps any module as an encoder that maps `(B, C, *size)` to `(B, D, *grid)`, without conditions.

    Args:
        module: the encoder.
        signal: of the data; the downsampling factor is computed by encoding one signal of zeros.

    Raises:
        InputError: if the output has no grid whose sides divide those of the signal.
    """

    def __init__(self, module: nn.Module, signal: SignalSpec) -> None:
        super().__init__()
        self.module = module
        latents = output_shape(module, (1, signal.channels, *signal.size))
        grid = latents[2:]
        if len(grid) != signal.ndim or any(
            n < 1 or side % n for side, n in zip(signal.size, grid, strict=True)
        ):
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
        """Output of the wrapped module.

        Raises:
            InputError: for a size that its downsampling factors do not divide.
        """
        grid = self.grid(signal.shape[2:])
        latents = self.module(signal)
        if tuple(latents.shape[2:]) != grid:
            raise InputError(
                f"expected latents on a grid of {_by(grid)} for signals of {_by(signal.shape[2:])}, received "
                f"{tuple(latents.shape)}: use signals of the size that the model was built for"
            )
        return latents

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        fits = len(size) == len(self._factors) and not any(
            side % factor for side, factor in zip(size, self._factors, strict=True)
        )
        if not fits:
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
    if any(undescribed_conditioners(part) for part in parts.values()):
        return None
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


def check_fit(
    decoder: Decoder, likelihood: LikelihoodFamily, signal: SignalSpec, dim: int, grid: Sequence[int]
) -> None:
    """Refuse parts whose shapes or domains differ: broadcasting would turn them into false likelihoods.

    Args:
        decoder: the shape of its output is computed, unless it refuses latents without a condition.
        likelihood: of the signal.
        signal: of the data.
        dim: channels of the latents.
        grid: of the latents.

    Raises:
        InputError: for a decoder or a likelihood that does not fit the signal.
    """
    if likelihood.is_density != signal.is_continuous:
        given = "a density" if likelihood.is_density else "probabilities of exact levels"
        raise InputError(
            f"expected a likelihood of the signal's domain, {signal.domain}, received one that gives "
            f"{given}: use a normal density for continuous signals only"
        )
    levels = getattr(likelihood, "levels", None)
    if not signal.is_continuous and levels not in (None, signal.levels):
        raise InputError(
            f"expected a likelihood of {signal.levels} levels, received one of {levels}: give both "
            "the same number"
        )
    channels = getattr(likelihood, "channels", None)
    if channels not in (None, signal.channels):
        raise InputError(
            f"expected a likelihood of {signal.channels} channels, received one of {channels}: give "
            "both the same"
        )
    module = decoder.module if isinstance(decoder, ForeignDecoder) else decoder
    if _is_planned(module) and _is_small(module, signal.size):
        return  # it is checked when it is built with values
    try:
        made = output_shape(module, (1, dim, *grid), signal.size)
    except InputError as error:
        if isinstance(error.__cause__, InputError):
            return  # a decoder that requires a condition cannot be measured without one
        raise
    expected = (1, likelihood.num_parameters, *(side // likelihood.frame for side in signal.size))
    if made != expected:
        raise InputError(
            f"expected a decoder that maps {(1, dim, *grid)} to {expected}, the parameters of the "
            f"likelihood, received an output of shape {made}: change its last layer or its strides"
        )


def as_decoder(module: nn.Module) -> Decoder:
    """Return a decoder unchanged, or wrap any other module as one."""
    return module if isinstance(module, Decoder) else ForeignDecoder(module)


def output_shape(
    module: nn.Module, shape: Sequence[int], size: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Shape of a module's output for zeros of a shape.

    Args:
        module: maps a tensor to a tensor.
        shape: of its input, `(B, C, *size)`.
        size: of its output, if that is larger than its input; large tensors are not computed.

    Raises:
        InputError: when it fails, or gives no tensor.
    """
    try:
        out = _output(module, shape, size or shape[2:])
    except (RuntimeError, TypeError, ValueError) as error:
        if _is_planned(module):
            raise  # a module may depend on values, which it has only once it is built elsewhere
        raise InputError(
            f"expected a module that takes a tensor of shape {tuple(shape)}, the "
            f"{type(module).__name__} given failed ({' '.join(str(error).split())[:200]}): correct it, or "
            "the sizes given beside it"
        ) from error
    if not isinstance(out, Tensor):
        raise InputError(
            f"expected a module that returns one tensor, the {type(module).__name__} given returned a "
            f"{type(out).__name__}: wrap it so that it returns the tensor alone"
        )
    return tuple(out.shape)


def _output(module: nn.Module, shape: Sequence[int], size: Sequence[int]) -> object:
    """Output for zeros; without values for large signals, so that signals of any size take no memory."""
    if _is_small(module, size) and not _is_planned(module):
        return _run(module, torch.zeros(*shape))
    try:
        return _run(without_values(module), torch.zeros(*shape, device="meta"))
    except InputError:
        raise
    except Exception:  # any module may be given: one may depend on values, or not be copied
        return _run(module, torch.zeros(*shape))


def _is_planned(module: nn.Module) -> bool:
    """True for a module without values."""
    return any(each.is_meta for each in module.parameters())


def _is_small(module: nn.Module, size: Sequence[int]) -> bool:
    """True if the module's widest layer takes little memory and time for a signal of this size.

    Computing without values imports `torch._dynamo`, which takes longer.
    """
    widest = max((len(each) for each in module.parameters() if each.ndim), default=1)
    return widest * math.prod(size) <= SMALL


@torch.no_grad()
def _run(module: nn.Module, zeros: Tensor) -> object:
    modes = {each: each.training for each in module.modules()}
    module.eval()  # zeros must not update batch statistics
    try:
        return module(zeros.to(next(module.parameters(), zeros)))
    finally:
        for each, mode in modes.items():
            each.training = mode


def _by(size: Sequence[int]) -> str:
    return "x".join(str(side) for side in size)
