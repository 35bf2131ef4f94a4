"""The paper's deconvolutional decoder, for any number of spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditioners import Conditioner
from smalti.core.conditions import Conditions
from smalti.core.locality import Extent, ReceptiveField
from smalti.core.parts import DECODERS, Encoder, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.decoders.conditioned import ConditionedDecoder, UpsamplingConfig
from smalti.nn.blocks import (
    ACTIVATIONS,
    BLOCKS,
    CONVOLUTIONS,
    Norm,
    channels_last,
    stage_strides,
    upsample,
)
from smalti.nn.receptive import receptive_field, within


@final
class ConvDecoder(ConditionedDecoder):
    """3x3 convolution over the latents, residual blocks, transposed convolutions (4x4 at stride 2).

    van den Oord et al. 2017, section 4.1.

    Args:
        dim: channels of the latents.
        out_channels: channels of the output, the parameters of a likelihood.
        ndim: axes of the signal.
        channels: channels of every layer.
        residual_channels: hidden channels of the residual blocks.
        residual_blocks: number of residual blocks.
        norm: normalisation in the residual blocks: "none" as in the paper, or "group" (group normalization,
            and SiLU in place of ReLU), which learns faster.
        strides: upsampling factor of each stage, in order: an encoder's, reversed.
        head_channels: when above 0, the last transposed convolution has this many channels and a 1x1
            convolution maps them to the parameters: four times cheaper for the 256-way softmax.
        conditions: number of ids of each id condition of the data, by name; the decoder embeds `label` (for
            example the speaker), so that codes need not represent it.
        label_dropout: share of the labels that training hides, so that items without a label can be decoded.
        time_strides: upsampling factors over the frames of clips, where they differ from `strides`.
        per_frame: whether each frame of a clip is decoded separately, as an image.
        conditioners: modules for the `channels` maps of the first convolution, on the latents' grid, by the
            name of the condition that each reads. Saving requires that each has a registered config.
    """

    def __init__(
        self,
        dim: int = 64,
        out_channels: int = 3,
        ndim: int = 2,
        *,
        channels: int = 128,
        residual_channels: int = 32,
        residual_blocks: int = 2,
        norm: Norm = "none",
        strides: Sequence[int] = (2, 2),
        head_channels: int = 0,
        conditions: Mapping[str, int] | None = None,
        label_dropout: float = 0.1,
        time_strides: Sequence[int] = (),
        per_frame: bool = False,
        conditioners: Mapping[str, Conditioner] | None = None,
    ) -> None:
        conv = CONVOLUTIONS[2 if per_frame else ndim]
        first = conv(dim, channels, 3, padding=1)
        super().__init__(first, channels, conditions, label_dropout, conditioners, per_frame)
        self.config = ConvDecoderConfig(
            channels=channels,
            residual_channels=residual_channels,
            residual_blocks=residual_blocks,
            norm=norm,
            strides=tuple(strides),
            time_strides=() if per_frame else tuple(time_strides),
            per_frame=per_frame,
            head_channels=head_channels,
            use_labels=self.label is not None,
            label_dropout=label_dropout,
            conditioners=self.conditioners.configs(),
        )
        if per_frame:
            ndim, time_strides = 2, ()
        activation = ACTIVATIONS[norm]
        layers: list[nn.Module] = [
            BLOCKS[norm](ndim, channels, residual_channels) for _ in range(residual_blocks)
        ]
        widths = [channels] * (len(strides) - 1) + [head_channels or out_channels]
        width = channels
        for stride, wider in zip(stage_strides(ndim, strides, time_strides), widths, strict=True):
            layers += [activation(), upsample(ndim, width, wider, stride)]
            width = wider
        if head_channels:
            layers += [activation(), conv(width, out_channels, 1)]
        self.layers = nn.Sequential(*layers)

    def upsampled(self, x: Float[Tensor, "b c *grid"]) -> Float[Tensor, "b p *size"]:
        """Apply the layers after the first one."""
        return self.layers(x)

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Of the convolutions; None with group normalization over frames, or with conditioners."""
        if len(self.conditioners):
            return None
        if self.is_per_frame:
            return ReceptiveField(0, 0)
        stride = math.prod(self.config.time_strides or self.config.strides or ())
        return receptive_field(nn.Sequential(self.first, *self.layers), stride, 1)

    def within(
        self, latents: Float[Tensor, "b d *grid"], extent: Extent, conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *size"]:
        """Parameters of the likelihood for windows of longer signals."""
        if self.is_per_frame:
            return self(latents, conditions)
        x = within([self.first], channels_last(latents), extent)
        return within(self.layers, self.conditioned(x, conditions), extent)


@DECODERS.register
class ConvDecoderConfig(UpsamplingConfig):
    """Settings of a `ConvDecoder`."""

    kind: Literal["conv"] = "conv"
    channels: int = Field(default=128, ge=1)
    residual_channels: int = Field(default=32, ge=1)
    residual_blocks: int = Field(default=2, ge=0)
    norm: Norm = "none"
    head_channels: int = Field(default=0, ge=0)

    @classmethod
    def tiny(cls) -> ConvDecoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=8, residual_channels=4, residual_blocks=1)

    def build(
        self,
        signal: SignalSpec,
        dim: int,
        encoder: Encoder,
        likelihood: LikelihoodFamily,
        conditions: Mapping[str, int] | None = None,
    ) -> tuple[ConvDecoder, LikelihoodFamily]:
        """Build the decoder; the likelihood is unchanged."""
        decoder = ConvDecoder(
            dim,
            likelihood.num_parameters,
            signal.ndim,
            channels=self.channels,
            residual_channels=self.residual_channels,
            residual_blocks=self.residual_blocks,
            norm=self.norm,
            head_channels=self.head_channels,
            conditioners=self.build_conditioners(self.channels),
            **self.resolved(encoder, conditions),
        )
        return decoder, likelihood

    def between_levels(self) -> ConvDecoderConfig:
        """Return the settings without conditions and without a head."""
        return self.changed({"use_labels": False, "conditioners": {}, "head_channels": 0})
