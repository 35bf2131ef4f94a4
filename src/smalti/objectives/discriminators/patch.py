"""PatchGAN: a convolutional network that judges each patch of a picture."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.nn.blocks import num_groups
from smalti.objectives.base import check_pictures, pictures
from smalti.objectives.discriminators.base import (
    DISCRIMINATORS,
    Discriminator,
    DiscriminatorConfig,
    Verdict,
)

SLOPE = 0.2
"""Of leaky ReLUs."""
MOST_WIDER = 8
"""Largest number of channels of a layer, relative to the first."""


@final
class PatchDiscriminator(Discriminator):
    """PatchGAN (Isola et al. 2017, arXiv 1611.07004), with group normalization in place of batch norm.

    Group normalization keeps the judgement of an item independent of its batch, and of the number of ranks.
    With three strided layers a patch has 70x70 pixels. The frames of clips are judged one by one.

    Args:
        channels: of the pictures.
        width: channels of the first layer; each layer doubles them, up to eight times.
        layers: number of layers with stride 2.
    """

    def __init__(self, channels: int = 3, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.config = PatchDiscriminatorConfig(width=width, layers=layers)
        widths = [width * min(2**layer, MOST_WIDER) for layer in range(layers + 1)]
        stages: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(SLOPE)),
        ]
        for layer, (before, after) in enumerate(pairwise(widths), 1):
            stages.append(
                nn.Sequential(
                    nn.Conv2d(before, after, 4, 2 if layer < layers else 1, 1, bias=False),
                    nn.GroupNorm(num_groups(after), after),
                    nn.LeakyReLU(SLOPE),
                )
            )
        self.stages = nn.ModuleList(stages)
        self.head = nn.Conv2d(widths[-1], 1, 4, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.02)

    def forward(self, signal: Float[Tensor, "b c *size"]) -> list[Verdict]:
        """One verdict; its logits are `(N, 1, h, w)` for N pictures or frames."""
        x, features = pictures(signal), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return [Verdict(self.head(x), tuple(features))]


@DISCRIMINATORS.register
class PatchDiscriminatorConfig(DiscriminatorConfig):
    """Settings of a `PatchDiscriminator`."""

    kind: Literal["patch"] = "patch"
    width: int = Field(default=64, ge=1)
    layers: int = Field(default=3, ge=1, le=8)

    def build(self, signal: SignalSpec) -> PatchDiscriminator:
        """Build the network for pictures or clips."""
        check_pictures(signal, "a patch discriminator")
        if min(signal.size[-2:]) // 2**self.layers < 3:
            raise InputError(
                f"expected pictures of at least {3 * 2**self.layers} pixels a side for a discriminator with "
                f"{self.layers} strided layers, received {signal.size[-2:]}: use fewer layers"
            )
        return PatchDiscriminator(signal.channels, self.width, self.layers)
