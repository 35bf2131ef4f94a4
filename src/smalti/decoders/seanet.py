"""The decoder of EnCodec and DAC for waveforms and other sequences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, final

from pydantic import Field
from torch import nn

from smalti.core.conditioners import Conditioner
from smalti.core.errors import InputError
from smalti.core.parts import DECODERS, Encoder, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.decoders.conditioned import UpsamplingConfig
from smalti.decoders.sequence import SequenceDecoder
from smalti.nn.seanet import DILATIONS, ResidualUnit, Snake, TimeConvolution, TimeUpsampling

Size = Literal["S", "B", "L"]
SIZES: dict[Size, int] = {"S": 24, "B": 48, "L": 96}
"""Channels at the rate of the signal, by the name of a size: one and a half times those of the encoder."""


@final
class SEANetDecoder(SequenceDecoder):
    """Transposed convolutions, each followed by residual units with dilations 1, 3 and 9.

    Kumar et al. 2023 (DAC).

    Args:
        dim: channels of the latents.
        out_channels: channels of the output, the parameters of a likelihood.
        size: "S", "B" or "L": 24, 48 or 96 channels at the rate of the signal, and twice as many before each
            stage.
        channels: channels at the rate of the signal; None for those of the size.
        causal: whether positions depend on no later latents.
        strides: upsampling factor of each stage, in order: an encoder's, reversed.
        conditions: number of ids of each id condition of the data, by name; the decoder embeds `label` (for
            example the speaker).
        label_dropout: share of the labels that training hides, so that items without a label can be decoded.
        conditioners: modules for the activations of the first convolution, on the latents' grid.
    """

    def __init__(
        self,
        dim: int = 64,
        out_channels: int = 1,
        *,
        size: Size = "S",
        channels: int | None = None,
        causal: bool = False,
        strides: Sequence[int] = (8, 5, 4, 2),
        conditions: Mapping[str, int] | None = None,
        label_dropout: float = 0.1,
        conditioners: Mapping[str, Conditioner] | None = None,
    ) -> None:
        width = (channels or SIZES[size]) << len(strides)
        first = TimeConvolution(dim, width, 7, causal=causal)
        super().__init__(
            first,
            width,
            _layers(width, strides, out_channels, causal),
            math.prod(strides),
            conditions,
            label_dropout,
            conditioners,
        )
        self.config = SEANetDecoderConfig(
            size=size,
            channels=channels,
            causal=causal,
            strides=tuple(strides),
            use_labels=self.label is not None,
            label_dropout=label_dropout,
            conditioners=self.conditioners.configs(),
        )


def _layers(width: int, strides: Sequence[int], out_channels: int, causal: bool) -> Iterator[nn.Module]:
    """The layers after the first one, whose output has `width` channels."""
    for stride in strides:
        yield from (Snake(width), TimeUpsampling(width, width // 2, stride, causal))
        width //= 2
        yield from (ResidualUnit(width, dilation, causal) for dilation in DILATIONS)
    yield from (Snake(width), TimeConvolution(width, out_channels, 7, causal=causal))


@DECODERS.register
class SEANetDecoderConfig(UpsamplingConfig):
    """Settings of a `SEANetDecoder`.

    Attributes:
        causal: None for that of a `SEANetEncoder`, and False after any other encoder.
    """

    kind: Literal["seanet"] = "seanet"
    size: Size = "S"
    channels: int | None = Field(default=None, ge=1)
    causal: bool | None = None

    @classmethod
    def tiny(cls) -> SEANetDecoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=2)

    def build(
        self,
        signal: SignalSpec,
        dim: int,
        encoder: Encoder,
        likelihood: LikelihoodFamily,
        conditions: Mapping[str, int] | None = None,
    ) -> tuple[SEANetDecoder, LikelihoodFamily]:
        """Build the decoder; the likelihood is unchanged.

        Raises:
            InputError: if the signal has more than one axis.
        """
        if signal.ndim != 1 or self.time_strides or self.per_frame:
            raise InputError(
                f"expected signals with one axis, and neither time_strides nor per_frame, for a decoder of "
                f"kind seanet, received signals of {signal.ndim} axes: use kind=resnet or kind=conv"
            )
        causal = bool(getattr(encoder, "causal", False)) if self.causal is None else self.causal
        settings = self.resolved(encoder, conditions)
        strides = settings["strides"]
        decoder = SEANetDecoder(
            dim,
            likelihood.num_parameters,
            size=self.size,
            channels=self.channels,
            causal=causal,
            strides=strides,
            conditions=settings["conditions"],
            label_dropout=self.label_dropout,
            conditioners=self.build_conditioners((self.channels or SIZES[self.size]) << len(strides)),
        )
        return decoder, likelihood
