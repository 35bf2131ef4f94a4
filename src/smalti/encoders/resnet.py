"""A residual encoder with normalization and attention (the VQGAN family), in any number of dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.parts import ENCODERS
from smalti.core.signals import SignalSpec
from smalti.encoders.strided import StridedEncoder, StridedEncoderConfig
from smalti.nn.blocks import CONVOLUTIONS, channels_last, downsample
from smalti.nn.resnet import ResNetBlock, StridedConvolution, head, middle, widths

Size = Literal["S", "B", "L"]
SIZES: dict[Size, tuple[int, int]] = {"S": (32, 1), "B": (64, 2), "L": (128, 2)}
"""Channels at the finest grid, and blocks at each grid, by the name of a size."""
Multiplier = Annotated[int, Field(ge=1)]


@final
class ResNetEncoder(StridedEncoder):
    """Residual blocks at each grid, strided convolutions between grids, attention at the coarsest.

    Esser et al. 2021 (VQGAN). Latents depend on all of the signal, because of normalization and attention.

    Args:
        in_channels: channels of the signal.
        dim: channels of the latents.
        ndim: axes of the signal: 1 (audio), 2 (images) or 3 (video, volumes).
        size: "S", "B" or "L": channels at the finest grid (32, 64, 128) and blocks per grid (1, 2, 2).
        channels: channels at the finest grid; None for those of the size.
        blocks: residual blocks at each grid; None for the size's.
        multipliers: channels at each grid, as multiples of those at the finest; the last one also stands for
            all coarser grids.
        attention: whether positions of the coarsest grid attend to each other.
        full_resolution: whether there are blocks at the signal's own resolution. Without them the first stage
            is one convolution with kernel size 2s for stride s, as in the paper's encoder, the grid after it
            is the finest, and training on a CPU is 2.6 times faster (64x64, 16 channels).
        strides: downsampling factor of each stage.
        time_strides: for clips, the stride over frames at each stage; () applies `strides` to time too.
        per_frame: for clips, encode each frame separately, as an image.

    Raises:
        InputError: if time_strides or per_frame is set and the signal does not have three axes.
    """

    def __init__(
        self,
        in_channels: int = 3,
        dim: int = 64,
        ndim: int = 2,
        *,
        size: Size = "S",
        channels: int | None = None,
        blocks: int | None = None,
        multipliers: Sequence[int] = (1, 2, 4),
        attention: bool = True,
        full_resolution: bool = True,
        strides: Sequence[int] = (2, 2),
        time_strides: Sequence[int] = (),
        per_frame: bool = False,
    ) -> None:
        config = ResNetEncoderConfig(
            size=size,
            channels=channels,
            blocks=blocks,
            multipliers=tuple(multipliers),
            attention=attention,
            full_resolution=full_resolution,
            strides=tuple(strides),
            time_strides=tuple(time_strides),
            per_frame=per_frame,
        )
        super().__init__(ndim, strides, time_strides, per_frame)
        self.config, ndim = config, self.network_ndim
        base, num_blocks = channels or SIZES[size][0], SIZES[size][1] if blocks is None else blocks
        later = self.stages if full_resolution else self.stages[1:]
        wide = widths(base, multipliers, len(later))
        width = wide[0]
        layers: list[nn.Module] = [
            CONVOLUTIONS[ndim](in_channels, width, 3, padding=1)
            if full_resolution
            else downsample(ndim, in_channels, width, self.stages[0])
        ]
        for stage, wider in enumerate(wide):
            for _ in range(num_blocks):
                layers.append(ResNetBlock(ndim, width, wider))
                width = wider
            if stage < len(later):
                layers.append(StridedConvolution(ndim, width, later[stage]))
        layers += [*middle(ndim, width, attention), *head(ndim, width, dim)]
        self.layers = nn.Sequential(*layers)

    def latents(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b d *grid"]:
        """Apply the layers."""
        return self.layers(channels_last(signal))


@ENCODERS.register
class ResNetEncoderConfig(StridedEncoderConfig):
    """Settings of a `ResNetEncoder`."""

    kind: Literal["resnet"] = "resnet"
    size: Size = "S"
    channels: int | None = Field(default=None, ge=1)
    blocks: int | None = Field(default=None, ge=1)
    multipliers: tuple[Multiplier, ...] = Field(default=(1, 2, 4), min_length=1, max_length=33)
    attention: bool = True
    full_resolution: bool = True

    @classmethod
    def tiny(cls) -> ResNetEncoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=4, blocks=1, multipliers=(1, 2))

    def build(self, signal: SignalSpec, dim: int) -> ResNetEncoder:
        """Build the encoder of such signals.

        Raises:
            InputError: if time_strides or per_frame is set and the signal does not have three axes.
        """
        return ResNetEncoder(signal.channels, dim, signal.ndim, **self.model_dump(exclude={"kind"}))
