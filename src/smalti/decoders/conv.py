"""The paper's deconvolutional decoder, for any number of spatial dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditioners import Conditioner, Conditioners
from smalti.core.conditions import Conditions
from smalti.core.config import Configuration
from smalti.core.parts import Decoder
from smalti.nn.blocks import CONVOLUTIONS, ResidualBlock, channels_last, each_frame, stage_strides, upsample
from smalti.nn.symbols import hide_labels, label_indices


class ConvDecoderConfig(Configuration):
    """Widths and depth of a `ConvDecoder`; its strides are the encoder's, reversed.

    `head_channels`: when above 0, the last transposed convolution gives this many channels and a 1x1
    convolution makes the parameters from them: four times cheaper for the 256-way softmax.
    `use_labels`: whether the decoder is told each item's label (the speaker), so that codes need not say it;
    `label_dropout` is the share of labels that training hides, so that it also knows items without one.
    """

    kind: Literal["conv"] = "conv"
    channels: int = Field(default=128, ge=1)
    residual_channels: int = Field(default=32, ge=1)
    residual_blocks: int = Field(default=2, ge=0)
    head_channels: int = Field(default=0, ge=0)
    use_labels: bool = False
    label_dropout: float = Field(default=0.1, ge=0, le=1)

    @classmethod
    def tiny(cls) -> ConvDecoderConfig:
        """The smallest that still has every part."""
        return cls(channels=8, residual_channels=4, residual_blocks=1)


@final
class ConvDecoder(Decoder):
    """3x3 from the latents, residual blocks, transposed convolutions (4x4 at stride 2).

    van den Oord et al. 2017, section 4.1.

    Args:
        config: widths and depth.
        ndim: number of spatial dimensions.
        dim: channels of the latents.
        out_channels: channels of the output, the parameters of a likelihood.
        strides: of the transposed convolutions, in order (the encoder's, reversed).
        num_classes: labels that it may be told.
        time_strides: those over the frames of clips, likewise, where they are others.
        is_per_frame: whether each frame of a clip is decoded by itself, as a picture.
        conditioners: modules for the `channels` maps of the first convolution, on the latents' grid,
            by the name of the condition that each reads.
    """

    def __init__(
        self,
        config: ConvDecoderConfig,
        ndim: int,
        dim: int,
        out_channels: int,
        strides: Sequence[int],
        num_classes: int = 0,
        time_strides: Sequence[int] = (),
        is_per_frame: bool = False,
        conditioners: Mapping[str, Conditioner] | None = None,
    ) -> None:
        super().__init__()
        self.is_per_frame = is_per_frame
        if is_per_frame:
            ndim, time_strides = 2, ()
        conv = CONVOLUTIONS[ndim]
        self.first = conv(dim, config.channels, 3, padding=1)
        self.num_classes = num_classes if config.use_labels else 0
        self.label_dropout = config.label_dropout
        self.label = nn.Embedding(self.num_classes + 1, config.channels) if self.num_classes else None
        self.conditioners = Conditioners(conditioners)
        layers: list[nn.Module] = [
            ResidualBlock(ndim, config.channels, config.residual_channels)
            for _ in range(config.residual_blocks)
        ]
        widths = [config.channels] * (len(strides) - 1) + [config.head_channels or out_channels]
        channels = config.channels
        for stride, width in zip(stage_strides(ndim, strides, time_strides), widths, strict=True):
            layers += [nn.ReLU(), upsample(ndim, channels, width, stride)]
            channels = width
        if config.head_channels:
            layers += [nn.ReLU(), conv(channels, out_channels, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(
        self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *size"]:
        """Parameters of the likelihood; `*size` is `*grid` times the product of the strides.

        Raises:
            InputError: when a label or another condition is out of range or of another shape.
        """
        x = each_frame(self._first, latents) if self.is_per_frame else self._first(latents)
        if self.label is not None:
            labels = label_indices(conditions, len(x), self.num_classes, x.device)
            if self.training:
                labels = hide_labels(labels, self.label_dropout, self.num_classes)
            x = x + self.label(labels).view(*x.shape[:2], *(1,) * (x.ndim - 2))
        x = self.conditioners(
            x, self.conditioners.prepare(conditions, len(x), x.shape[2:], hide=self.training)
        )
        return each_frame(self.layers, x) if self.is_per_frame else self.layers(x)

    def _first(self, latents: Float[Tensor, "b d *grid"]) -> Float[Tensor, "b c *grid"]:
        return self.first(channels_last(latents))
