"""A residual decoder with normalization and attention (the VQGAN family), in any number of dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditioners import Conditioner
from smalti.core.parts import DECODERS, Encoder, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.decoders.conditioned import ConditionedDecoder, UpsamplingConfig
from smalti.encoders.resnet import SIZES, Multiplier, Size
from smalti.nn.blocks import CONVOLUTIONS, stage_strides, upsample
from smalti.nn.resnet import NearestUpsampling, ResNetBlock, group_norm, head, middle, widths


@final
class ResNetDecoder(ConditionedDecoder):
    """Mirrors a `ResNetEncoder`: attention at the coarsest grid, residual blocks, nearest upsampling.

    Esser et al. 2021 (VQGAN).

    Args:
        dim: channels of the latents.
        out_channels: channels of the output, the parameters of a likelihood.
        ndim: axes of the signal.
        size: "S", "B" or "L": channels at the finest grid (32, 64, 128), and blocks at each grid, one more
            than in the encoder (2, 3, 3).
        channels: channels at the finest grid; None for those of the size.
        blocks: residual blocks at each grid; None for the size's.
        multipliers: channels at each grid, the finest first, as multiples of those at the finest; the last
            one also stands for all coarser grids.
        attention: whether positions of the coarsest grid attend to each other.
        full_resolution: whether there are blocks at the signal's own resolution. Without them the last stage
            is one transposed convolution with kernel size 2s for stride s, as in the paper's decoder.
        strides: upsampling factor of each stage, in order: an encoder's, reversed.
        conditions: number of ids of each id condition of the data, by name; the decoder embeds `label`.
        label_dropout: share of the labels that training hides, so that items without a label can be decoded.
        time_strides: upsampling factors over the frames of clips, where they differ from `strides`.
        per_frame: whether each frame of a clip is decoded separately, as an image.
        conditioners: modules for the activations of the first convolution, on the latents' grid.
    """

    def __init__(
        self,
        dim: int = 64,
        out_channels: int = 3,
        ndim: int = 2,
        *,
        size: Size = "S",
        channels: int | None = None,
        blocks: int | None = None,
        multipliers: Sequence[int] = (1, 2, 4),
        attention: bool = True,
        full_resolution: bool = True,
        strides: Sequence[int] = (2, 2),
        conditions: Mapping[str, int] | None = None,
        label_dropout: float = 0.1,
        time_strides: Sequence[int] = (),
        per_frame: bool = False,
        conditioners: Mapping[str, Conditioner] | None = None,
    ) -> None:
        wide = widths(channels or SIZES[size][0], multipliers, len(strides) - (not full_resolution))
        first = CONVOLUTIONS[2 if per_frame else ndim](dim, wide[-1], 3, padding=1)
        super().__init__(first, wide[-1], conditions, label_dropout, conditioners, per_frame)
        self.config = ResNetDecoderConfig(
            size=size,
            channels=channels,
            blocks=blocks,
            multipliers=tuple(multipliers),
            attention=attention,
            full_resolution=full_resolution,
            strides=tuple(strides),
            time_strides=() if per_frame else tuple(time_strides),
            per_frame=per_frame,
            use_labels=self.label is not None,
            label_dropout=label_dropout,
            conditioners=self.conditioners.configs(),
        )
        if per_frame:
            ndim, time_strides = 2, ()
        stages = stage_strides(ndim, strides, time_strides)
        num_blocks = SIZES[size][1] + 1 if blocks is None else blocks
        width = wide[-1]
        layers = middle(ndim, width, attention)
        for stage, narrower in enumerate(reversed(wide)):
            for _ in range(num_blocks):
                layers.append(ResNetBlock(ndim, width, narrower))
                width = narrower
            if stage < len(wide) - 1:
                layers.append(NearestUpsampling(ndim, width, stages[stage]))
        if full_resolution:
            layers += head(ndim, width, out_channels)
        else:
            layers += [group_norm(width), nn.SiLU(), upsample(ndim, width, out_channels, stages[-1])]
        self.layers = nn.Sequential(*layers)

    def upsampled(self, x: Float[Tensor, "b c *grid"]) -> Float[Tensor, "b p *size"]:
        """Apply the layers after the first one."""
        return self.layers(x)


@DECODERS.register
class ResNetDecoderConfig(UpsamplingConfig):
    """Settings of a `ResNetDecoder`."""

    kind: Literal["resnet"] = "resnet"
    size: Size = "S"
    channels: int | None = Field(default=None, ge=1)
    blocks: int | None = Field(default=None, ge=1)
    multipliers: tuple[Multiplier, ...] = Field(default=(1, 2, 4), min_length=1, max_length=33)
    attention: bool = True
    full_resolution: bool = True

    @classmethod
    def tiny(cls) -> ResNetDecoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=4, blocks=1, multipliers=(1, 2))

    def build(
        self,
        signal: SignalSpec,
        dim: int,
        encoder: Encoder,
        likelihood: LikelihoodFamily,
        conditions: Mapping[str, int] | None = None,
    ) -> tuple[ResNetDecoder, LikelihoodFamily]:
        """Build the decoder; the likelihood is unchanged."""
        settings = self.resolved(encoder, conditions)
        num_stages = len(settings["strides"]) - (not self.full_resolution)
        own = widths(self.channels or SIZES[self.size][0], self.multipliers, num_stages)
        decoder = ResNetDecoder(
            dim,
            likelihood.num_parameters,
            signal.ndim,
            size=self.size,
            channels=self.channels,
            blocks=self.blocks,
            multipliers=self.multipliers,
            attention=self.attention,
            full_resolution=self.full_resolution,
            conditioners=self.build_conditioners(own[-1]),
            **settings,
        )
        return decoder, likelihood
