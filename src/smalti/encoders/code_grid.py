"""The encoder of code grids: each code is looked up, then the paper's convolutions over the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.parts import ENCODERS, Encoder, EncoderConfig
from smalti.core.signals import SignalSpec
from smalti.encoders.conv import ConvEncoderConfig, fitting_grid
from smalti.likelihoods.levels import to_levels

NETWORK = ConvEncoderConfig(strides=(3, 7))
"""Over the grid, unless another is given: one place for all of 21x21."""


@ENCODERS.register
class CodeGridEncoderConfig(EncoderConfig):
    """The tables, and the network over what they give.

    Attributes:
        channels: that a code is looked up as.
        network: over the grid; strides whose product is its side leave one place for all of it.
    """

    kind: Literal["code_grid"] = "code_grid"
    channels: int = Field(default=64, ge=1)
    network: ConvEncoderConfig = NETWORK

    @classmethod
    def tiny(cls) -> CodeGridEncoderConfig:
        """The smallest that still has every part."""
        network = ConvEncoderConfig.tiny().model_copy(update={"strides": (2, 3)})
        return cls(channels=8, network=network)

    def build(self, signal: SignalSpec, dim: int) -> CodeGridEncoder:
        """The encoder of such grids: codebooks are channels, codes are levels."""
        return CodeGridEncoder(
            signal.channels, signal.levels, dim, signal.ndim, channels=self.channels, network=self.network
        )


@final
class CodeGridEncoder(Encoder):
    """Codes -> the sum of what the tables of the G codebooks hold for them -> convolutions -> latents.

    Args:
        num_codebooks: G.
        num_codes: K.
        dim: channels of the latents.
        ndim: axes of the grid.
        channels: of a code's embedding.
        network: over the grid.
    """

    def __init__(
        self,
        num_codebooks: int = 1,
        num_codes: int = 512,
        dim: int = 64,
        ndim: int = 2,
        *,
        channels: int = 64,
        network: ConvEncoderConfig = NETWORK,
    ) -> None:
        super().__init__()
        self.config = CodeGridEncoderConfig(channels=channels, network=network)
        self.strides, self.levels = network.strides, num_codes
        self.embeddings = nn.ModuleList(nn.Embedding(num_codes, channels) for _ in range(num_codebooks))
        self.network = network.build(SignalSpec(channels, (math.prod(network.strides),) * ndim), dim)

    def forward(
        self, signal: Float[Tensor, "b g *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Latents of code grids in the model range."""
        codes = to_levels(signal, self.levels).unbind(1)
        looked_up = [embed(c) for embed, c in zip(self.embeddings, codes, strict=True)]
        return self.network(torch.stack(looked_up).sum(0).movedim(-1, 1))

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return fitting_grid(size, self.strides)
