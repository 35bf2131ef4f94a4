"""The paper's convolutional encoder, for any number of spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.locality import Extent, ReceptiveField
from smalti.core.parts import ENCODERS
from smalti.core.signals import SignalSpec
from smalti.encoders.strided import StridedEncoder, StridedEncoderConfig
from smalti.nn.blocks import (
    ACTIVATIONS,
    BLOCKS,
    CONVOLUTIONS,
    Norm,
    channels_last,
    downsample,
)
from smalti.nn.receptive import receptive_field, within


@final
class ConvEncoder(StridedEncoder):
    """Strided convolutions (4x4 at stride 2), residual blocks, then a 1x1 convolution to the latents.

    van den Oord et al. 2017, section 4.1. The 1x1 projection is an addition that sets the dimension of the
    codes. The default widths are those of the authors' published notebook.

    Args:
        in_channels: channels of the signal.
        dim: channels of the latents.
        ndim: axes of the signal: 1 (audio), 2 (images) or 3 (video, volumes).
        channels: channels of every layer.
        residual_channels: hidden channels of the residual blocks.
        residual_blocks: number of residual blocks.
        norm: normalisation in the residual blocks: "none" as in the paper, or "group" (group
            normalization, and SiLU in place of ReLU), which learns faster.
        strides: downsampling factor of each stage.
        time_strides: for clips, the stride over frames at each stage, as many as `strides` (which then apply
            to height and width); a stride of 1 keeps every frame, with neighbouring frames in its receptive
            field. () applies `strides` to time too.
        per_frame: for clips, encode each frame separately, as an image: its codes depend on no other frame.

    Raises:
        InputError: if time_strides or per_frame is set and the signal does not have three axes.
    """

    def __init__(
        self,
        in_channels: int = 3,
        dim: int = 64,
        ndim: int = 2,
        *,
        channels: int = 128,
        residual_channels: int = 32,
        residual_blocks: int = 2,
        norm: Norm = "none",
        strides: Sequence[int] = (2, 2),
        time_strides: Sequence[int] = (),
        per_frame: bool = False,
    ) -> None:
        config = ConvEncoderConfig(
            channels=channels,
            residual_channels=residual_channels,
            residual_blocks=residual_blocks,
            norm=norm,
            strides=tuple(strides),
            time_strides=tuple(time_strides),
            per_frame=per_frame,
        )
        super().__init__(ndim, strides, time_strides, per_frame)
        self.config, ndim = config, self.network_ndim
        activation = ACTIVATIONS[norm]
        layers: list[nn.Module] = []
        width = in_channels
        for stride in self.stages:
            layers += [downsample(ndim, width, channels, stride), activation()]
            width = channels
        layers.pop()  # the residual block starts with its own ReLU
        for _ in range(residual_blocks):
            layers.append(BLOCKS[norm](ndim, width, residual_channels))
        layers += [activation(), CONVOLUTIONS[ndim](width, dim, 1)]
        self.layers = nn.Sequential(*layers)

    def latents(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b d *grid"]:
        """Apply the layers."""
        return self.layers(channels_last(signal))

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Of the convolutions; None with group normalization, whose statistics cover all frames."""
        if self.is_per_frame:
            return ReceptiveField(0, 0)
        return receptive_field(self.layers, 1, math.prod(self.time_strides or self.strides))

    def within(
        self, signal: Float[Tensor, "b c *size"], extent: Extent, conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Encode windows of longer signals to latents."""
        return self(signal) if self.is_per_frame else within(self.layers, channels_last(signal), extent)


@ENCODERS.register
class ConvEncoderConfig(StridedEncoderConfig):
    """Settings of a `ConvEncoder`."""

    kind: Literal["conv"] = "conv"
    channels: int = Field(default=128, ge=1)
    residual_channels: int = Field(default=32, ge=1)
    residual_blocks: int = Field(default=2, ge=0)
    norm: Norm = "none"

    @classmethod
    def tiny(cls) -> ConvEncoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=8, residual_channels=4, residual_blocks=1, strides=(2, 2))

    def build(self, signal: SignalSpec, dim: int) -> ConvEncoder:
        """Build the encoder of such signals.

        Raises:
            InputError: if time_strides or per_frame is set and the signal does not have three axes.
        """
        return ConvEncoder(signal.channels, dim, signal.ndim, **self.model_dump(exclude={"kind"}))
