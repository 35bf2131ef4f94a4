"""The strided encoder of EnCodec and DAC for waveforms and other sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.locality import Extent, ReceptiveField
from smalti.core.parts import ENCODERS
from smalti.core.signals import SignalSpec
from smalti.encoders.strided import StridedEncoder, StridedEncoderConfig
from smalti.nn.blocks import Stride
from smalti.nn.receptive import receptive_field, within
from smalti.nn.seanet import DILATIONS, ResidualUnit, Snake, TimeConvolution

Size = Literal["S", "B", "L"]
SIZES: dict[Size, int] = {"S": 16, "B": 32, "L": 64}
"""Channels at the rate of the signal, by the name of a size; they double at each stage."""


@final
class SEANetEncoder(StridedEncoder):
    """Residual units with dilations 1, 3 and 9, then a strided convolution, at each stage.

    Kumar et al. 2023 (DAC). Latents depend on a bounded part of the signal, so recordings of any length are
    encoded in windows and as streams; a causal encoder needs nothing after the span of a latent.

    Args:
        in_channels: channels of the signal.
        dim: channels of the latents.
        size: "S", "B" or "L": 16, 32 or 64 channels at the rate of the signal, which double at each stage.
        channels: channels at the rate of the signal; None for those of the size.
        causal: whether latents depend on no samples after their span.
        strides: downsampling factor of each stage.
    """

    def __init__(
        self,
        in_channels: int = 1,
        dim: int = 64,
        *,
        size: Size = "S",
        channels: int | None = None,
        causal: bool = False,
        strides: Sequence[int] = (2, 4, 5, 8),
    ) -> None:
        config = SEANetEncoderConfig(size=size, channels=channels, causal=causal, strides=tuple(strides))
        super().__init__(1, strides)
        self.config, self.causal = config, causal
        width = channels or SIZES[size]
        layers: list[nn.Module] = [TimeConvolution(in_channels, width, 7, causal=causal)]
        for stride in self.strides:
            layers += [ResidualUnit(width, dilation, causal) for dilation in DILATIONS]
            layers += [
                Snake(width),
                TimeConvolution(width, 2 * width, 2 * stride + stride % 2, stride, causal=causal),
            ]
            width *= 2
        layers += [Snake(width), TimeConvolution(width, dim, 3, causal=causal)]
        self.layers = nn.Sequential(*layers)

    def latents(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b d *grid"]:
        """Apply the layers."""
        return self.layers(signal)

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Of the convolutions."""
        return receptive_field(self.layers, 1, math.prod(self.strides))

    def within(
        self, signal: Float[Tensor, "b c *size"], extent: Extent, conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Encode windows of longer signals to latents."""
        return within(self.layers, signal, extent)


@ENCODERS.register
class SEANetEncoderConfig(StridedEncoderConfig):
    """Settings of a `SEANetEncoder`."""

    kind: Literal["seanet"] = "seanet"
    size: Size = "S"
    channels: int | None = Field(default=None, ge=1)
    causal: bool = False
    strides: tuple[Stride, ...] = Field(default=(2, 4, 5, 8), min_length=1, max_length=16)

    @classmethod
    def tiny(cls) -> SEANetEncoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=2, strides=(2, 2))

    def build(self, signal: SignalSpec, dim: int) -> SEANetEncoder:
        """Build the encoder of such signals.

        Raises:
            InputError: if the signal has more than one axis.
        """
        if signal.ndim != 1 or self.time_strides or self.per_frame:
            raise InputError(
                f"expected signals with one axis, and neither time_strides nor per_frame, for an encoder of "
                f"kind seanet, received signals of {signal.ndim} axes: use kind=resnet or kind=conv"
            )
        own = self.model_dump(exclude={"kind", "time_strides", "per_frame"})
        return SEANetEncoder(signal.channels, dim, **own)
