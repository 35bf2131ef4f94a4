"""The paper's convolutional encoder, for any number of spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.interfaces import Conditions, Configuration, Encoder, InputError, SignalSpec
from smalti.nn.blocks import CONVOLUTIONS, ResidualBlock, downsample


class ConvEncoderConfig(Configuration):
    """Widths and depth of a `ConvEncoder`; the defaults are those of the authors' published notebook."""

    kind: Literal["conv"] = "conv"
    channels: int = Field(default=128, ge=1)
    residual_channels: int = Field(default=32, ge=1)
    residual_blocks: int = Field(default=2, ge=0)
    strides: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(2, 2), min_length=1)

    @classmethod
    def tiny(cls) -> ConvEncoderConfig:
        """The smallest that still has every part."""
        return cls(channels=8, residual_channels=4, residual_blocks=1, strides=(2, 2))


@final
class ConvEncoder(Encoder):
    """Strided convolutions (4x4 at stride 2), residual blocks, then 1x1 to the latents.

    van den Oord et al. 2017, section 4.1. The 1x1 projection is ours: it sets the dimension of the codes.

    Args:
        config: widths and depth.
        signal: channels and number of dimensions of the input.
        dim: channels of the latents.
    """

    def __init__(self, config: ConvEncoderConfig, signal: SignalSpec, dim: int) -> None:
        super().__init__()
        self.strides = config.strides
        layers: list[nn.Module] = []
        channels = signal.channels
        for stride in config.strides:
            layers += [downsample(signal.ndim, channels, config.channels, stride), nn.ReLU()]
            channels = config.channels
        layers.pop()  # the residual block begins with its own ReLU
        for _ in range(config.residual_blocks):
            layers.append(ResidualBlock(signal.ndim, channels, config.residual_channels))
        layers += [nn.ReLU(), CONVOLUTIONS[signal.ndim](channels, dim, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Latents of a signal; `*grid` is `*size` divided by the product of the strides."""
        return self.layers(signal)

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return fitting_grid(size, self.strides)


def fitting_grid(size: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Grid of the latents of a signal of this size: its sides divided by the product of the strides.

    Raises:
        InputError: when that does not divide them.
    """
    factor = math.prod(strides)
    if any(length % factor for length in size):
        given = "x".join(str(length) for length in size)
        fitting = "x".join(str(max(1, round(length / factor)) * factor) for length in size)
        key = "data.length" if len(size) == 1 else "data.size"
        raise InputError(
            f"expected a size whose sides are multiples of {factor} (strides {tuple(strides)}), "
            f"received {given}: set {key}={fitting}, or other encoder strides"
        )
    return tuple(length // factor for length in size)
