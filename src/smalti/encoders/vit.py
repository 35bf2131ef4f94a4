"""A vision transformer over patches, in any number of dimensions and for any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from smalti.core.parts import ENCODERS
from smalti.core.signals import SignalSpec
from smalti.encoders.strided import StridedEncoder, StridedEncoderConfig
from smalti.nn.attention import GridTransformer
from smalti.nn.blocks import CONVOLUTIONS, Stride

Size = Literal["S", "B", "L"]
SIZES: dict[Size, tuple[int, int]] = {"S": (256, 4), "B": (512, 8), "L": (768, 12)}
"""Channels and layers, by the name of a size."""


def dimensions(size: Size, channels: int | None, layers: int | None) -> tuple[int, int]:
    """Channels and layers of a transformer, given or by the size."""
    return channels or SIZES[size][0], layers or SIZES[size][1]


@final
class ViTEncoder(StridedEncoder):
    """Patches as vectors, transformer blocks with rotary positions, then a linear map to the latents.

    Yu et al. 2022, ViT-VQGAN (arXiv 2110.04627), with encoded and rotary positions in place of learned ones,
    so that it takes signals of any size. Each latent depends on all of the signal.

    Args:
        in_channels: channels of the signal.
        dim: channels of the latents.
        ndim: axes of the signal: 1 (audio), 2 (images) or 3 (video, volumes).
        size: "S", "B" or "L": channels (256, 512, 768) and layers (4, 8, 12).
        channels: of every layer; None for those of the size.
        layers: transformer blocks; None for those of the size.
        heads: of the attention; None for one head per 64 channels.
        strides: their product is the side of a patch.
        time_strides: for clips, the same for the frames of a patch; () applies `strides` to time too.
        per_frame: for clips, encode each frame separately, as an image.

    Raises:
        InputError: if time_strides or per_frame is set and the signal does not have three axes, or the heads
            do not divide the channels.
    """

    def __init__(
        self,
        in_channels: int = 3,
        dim: int = 64,
        ndim: int = 2,
        *,
        size: Size = "S",
        channels: int | None = None,
        layers: int | None = None,
        heads: int | None = None,
        strides: Sequence[int] = (8,),
        time_strides: Sequence[int] = (),
        per_frame: bool = False,
    ) -> None:
        config = ViTEncoderConfig(
            size=size,
            channels=channels,
            layers=layers,
            heads=heads,
            strides=tuple(strides),
            time_strides=tuple(time_strides),
            per_frame=per_frame,
        )
        super().__init__(ndim, strides, time_strides, per_frame)
        self.config, ndim = config, self.network_ndim
        side = patch(self.stages)
        width, depth = dimensions(size, channels, layers)
        self.patches = CONVOLUTIONS[ndim](in_channels, width, side, side)  # pyright: ignore[reportArgumentType]
        self.transformer = GridTransformer(width, depth, heads)
        self.out = CONVOLUTIONS[ndim](width, dim, 1)

    def latents(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b d *grid"]:
        """Apply the transformer to the patches."""
        return self.out(self.transformer(self.patches(signal)))


def patch(stages: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Sides of a patch: of each axis, the product of the strides of all stages."""
    return tuple(math.prod(strides) for strides in zip(*stages, strict=True))


@ENCODERS.register
class ViTEncoderConfig(StridedEncoderConfig):
    """Settings of a `ViTEncoder`."""

    kind: Literal["vit"] = "vit"
    size: Size = "S"
    channels: int | None = Field(default=None, ge=2)
    layers: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    strides: tuple[Stride, ...] = Field(default=(8,), min_length=1, max_length=32)

    @classmethod
    def tiny(cls) -> ViTEncoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=16, layers=1, heads=2, strides=(4,))

    def build(self, signal: SignalSpec, dim: int) -> ViTEncoder:
        """Build the encoder of such signals.

        Raises:
            InputError: if time_strides or per_frame is set and the signal does not have three axes, or the
                heads do not divide the channels.
        """
        return ViTEncoder(signal.channels, dim, signal.ndim, **self.model_dump(exclude={"kind"}))
