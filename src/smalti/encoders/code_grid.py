"""Encoder of code grids: code embeddings, followed by the paper's convolutions over the grid."""

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
from smalti.encoders.conv import ConvEncoderConfig
from smalti.encoders.strided import fitting_grid
from smalti.likelihoods.levels import to_levels

NETWORK = ConvEncoderConfig(strides=(3, 7))
"""Default network over the grid: one latent position for a 21x21 grid."""


@ENCODERS.register
class CodeGridEncoderConfig(EncoderConfig):
    """Settings of a `CodeGridEncoder`.

    Attributes:
        channels: dimension of a code's embedding.
        network: convolutions over the grid; strides whose product equals its side leave one position.
    """

    kind: Literal["code_grid"] = "code_grid"
    channels: int = Field(default=64, ge=1)
    network: ConvEncoderConfig = NETWORK

    @classmethod
    def tiny(cls) -> CodeGridEncoderConfig:
        """The smallest config with every part, for tests."""
        network = ConvEncoderConfig.tiny().model_copy(update={"strides": (2, 3)})
        return cls(channels=8, network=network)

    def build(self, signal: SignalSpec, dim: int) -> CodeGridEncoder:
        """Build the encoder of code grids, given as signals: channels are codebooks, levels are codes."""
        return CodeGridEncoder(
            signal.channels, signal.levels, dim, signal.ndim, channels=self.channels, network=self.network
        )


@final
class CodeGridEncoder(Encoder):
    """Sums the embeddings of the G codes of a position, and encodes the result by convolutions.

    Args:
        num_codebooks: G.
        num_codes: K.
        dim: channels of the latents.
        ndim: axes of the grid.
        channels: dimension of a code's embedding.
        network: convolutions over the grid.
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
        """Encode code grids in the model's range to latents."""
        codes = to_levels(signal, self.levels).unbind(1)
        looked_up = [embed(c) for embed, c in zip(self.embeddings, codes, strict=True)]
        return self.network(torch.stack(looked_up).sum(0).movedim(-1, 1))

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return fitting_grid(size, self.strides)
