"""The encoder of code grids: each code is looked up, then the paper's convolutions over the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.config import Configuration
from smalti.core.parts import Encoder
from smalti.core.signals import SignalSpec
from smalti.encoders.conv import ConvEncoder, ConvEncoderConfig, fitting_grid
from smalti.likelihoods.levels import to_levels


class CodeGridEncoderConfig(Configuration):
    """The tables, and the network over what they give.

    Attributes:
        channels: that a code is looked up as.
        network: over the grid; strides whose product is its side leave one place for all of it.
    """

    kind: Literal["code_grid"] = "code_grid"
    channels: int = Field(default=64, ge=1)
    network: ConvEncoderConfig = ConvEncoderConfig(strides=(3, 7))

    @classmethod
    def tiny(cls) -> CodeGridEncoderConfig:
        """The smallest that still has every part."""
        network = ConvEncoderConfig.tiny().model_copy(update={"strides": (2, 3)})
        return cls(channels=8, network=network)


@final
class CodeGridEncoder(Encoder):
    """Codes -> the sum of what the tables of the G codebooks hold for them -> convolutions -> latents.

    Args:
        config: tables and network.
        signal: codebooks as channels, codes as levels.
        dim: channels of the latents.
    """

    def __init__(self, config: CodeGridEncoderConfig, signal: SignalSpec, dim: int) -> None:
        super().__init__()
        self.strides, self.levels = config.network.strides, signal.levels
        self.embeddings = nn.ModuleList(
            nn.Embedding(signal.levels, config.channels) for _ in range(signal.channels)
        )
        self.network = ConvEncoder(config.network, SignalSpec(config.channels, signal.size), dim)

    def forward(
        self, signal: Float[Tensor, "b g *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Latents of code grids in the model range."""
        codes = to_levels(signal, self.levels).unbind(1)
        looked_up = [embed(c) for embed, c in zip(self.embeddings, codes, strict=True)]
        return self.network(torch.stack(looked_up).sum(0).movedim(-1, 1))

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return fitting_grid(size, self.strides)
