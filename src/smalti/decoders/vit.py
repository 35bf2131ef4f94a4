"""A vision transformer from latents to patches, in any number of dimensions and for any size."""

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
from smalti.encoders.vit import Size, dimensions, patch
from smalti.nn.attention import GridTransformer
from smalti.nn.blocks import CONVOLUTIONS, TRANSPOSED, stage_strides


@final
class ViTDecoder(ConditionedDecoder):
    """Mirrors a `ViTEncoder`: transformer blocks over the grid, then a linear map from positions to patches.

    Yu et al. 2022, ViT-VQGAN (arXiv 2110.04627), with encoded and rotary positions.

    Args:
        dim: channels of the latents.
        out_channels: channels of the output, the parameters of a likelihood.
        ndim: axes of the signal.
        size: "S", "B" or "L": channels (256, 512, 768) and layers (4, 8, 12).
        channels: of every layer; None for those of the size.
        layers: transformer blocks; None for those of the size.
        heads: of the attention; None for one head per 64 channels.
        strides: their product is the side of a patch.
        conditions: number of ids of each id condition of the data, by name; the decoder embeds `label`.
        label_dropout: share of the labels that training hides, so that items without a label can be decoded.
        time_strides: the same for the frames of a patch, where it differs from `strides`.
        per_frame: whether each frame of a clip is decoded separately, as an image.
        conditioners: modules for the inputs of the transformer, on the latents' grid.

    Raises:
        InputError: if the heads do not divide the channels.
    """

    def __init__(
        self,
        dim: int = 64,
        out_channels: int = 3,
        ndim: int = 2,
        *,
        size: Size = "S",
        channels: int | None = None,
        layers: int | None = None,
        heads: int | None = None,
        strides: Sequence[int] = (8,),
        conditions: Mapping[str, int] | None = None,
        label_dropout: float = 0.1,
        time_strides: Sequence[int] = (),
        per_frame: bool = False,
        conditioners: Mapping[str, Conditioner] | None = None,
    ) -> None:
        width, depth = dimensions(size, channels, layers)
        first = CONVOLUTIONS[2 if per_frame else ndim](dim, width, 1)
        super().__init__(first, width, conditions, label_dropout, conditioners, per_frame)
        self.config = ViTDecoderConfig(
            size=size,
            channels=channels,
            layers=layers,
            heads=heads,
            strides=tuple(strides),
            time_strides=() if per_frame else tuple(time_strides),
            per_frame=per_frame,
            use_labels=self.label is not None,
            label_dropout=label_dropout,
            conditioners=self.conditioners.configs(),
        )
        if per_frame:
            ndim, time_strides = 2, ()
        side = patch(stage_strides(ndim, strides, time_strides))
        patches = TRANSPOSED[ndim](width, out_channels, side, side)  # pyright: ignore[reportArgumentType]
        self.layers = nn.Sequential(GridTransformer(width, depth, heads), patches)

    def upsampled(self, x: Float[Tensor, "b c *grid"]) -> Float[Tensor, "b p *size"]:
        """Apply the layers after the first one."""
        return self.layers(x)


@DECODERS.register
class ViTDecoderConfig(UpsamplingConfig):
    """Settings of a `ViTDecoder`."""

    kind: Literal["vit"] = "vit"
    size: Size = "S"
    channels: int | None = Field(default=None, ge=2)
    layers: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)

    @classmethod
    def tiny(cls) -> ViTDecoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=16, layers=1, heads=2)

    def build(
        self,
        signal: SignalSpec,
        dim: int,
        encoder: Encoder,
        likelihood: LikelihoodFamily,
        conditions: Mapping[str, int] | None = None,
    ) -> tuple[ViTDecoder, LikelihoodFamily]:
        """Build the decoder; the likelihood is unchanged.

        Raises:
            InputError: if the heads do not divide the channels.
        """
        width, _ = dimensions(self.size, self.channels, self.layers)
        decoder = ViTDecoder(
            dim,
            likelihood.num_parameters,
            signal.ndim,
            size=self.size,
            channels=self.channels,
            layers=self.layers,
            heads=self.heads,
            conditioners=self.build_conditioners(width),
            **self.resolved(encoder, conditions),
        )
        return decoder, likelihood
