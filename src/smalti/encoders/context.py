"""Encoder of log-mel frames with context, pre-trained and frozen before the codebook is trained.

Its network first learns to predict the clusters of masked spans of speech from the context
(`models/masked.py`); the output of one of its layers, projected, smoothed and frozen, gives the latents. The
method follows HuBERT (Hsu et al. 2021, arXiv 2106.07447), at the scale of an hour of speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.parts import ENCODERS, EncoderConfig
from smalti.core.signals import SignalSpec
from smalti.encoders.pooling import PoolingEncoder
from smalti.encoders.strided import fitting_grid
from smalti.encoders.voice import VoiceConfig, VoiceFinder


@ENCODERS.register
class ContextEncoderConfig(EncoderConfig):
    """Settings of a `ContextEncoder`.

    Attributes:
        channels: width of the network.
        strides: strides of the initial convolutions; their product is the number of frames per code.
        dilations: dilation of each residual block.
        layer: block whose output gives the latents, counted from 1.
        smoothing: weight of each neighbour in a moving average over three latents.
        dropout: dropout of each block, in pre-training.
        voice: settings of the speaker normalisation.
    """

    kind: Literal["context"] = "context"
    channels: int = Field(default=192, ge=1)
    strides: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(2, 2), min_length=1, max_length=32)
    dilations: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 1, 2, 2, 3, 3), min_length=1)
    layer: int = Field(default=6, ge=1)
    smoothing: float = Field(default=0.25, ge=0, le=0.5)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    voice: VoiceConfig = VoiceConfig()

    @model_validator(mode="after")
    def _has_layer(self) -> ContextEncoderConfig:
        if self.layer > len(self.dilations):
            raise ValueError(
                f"expected a layer from 1 to {len(self.dilations)}, the number of dilations, received "
                f"{self.layer}; use an earlier one or add dilations"
            )
        return self

    @classmethod
    def tiny(cls) -> ContextEncoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=8, dilations=(1, 2), layer=2, voice=VoiceConfig.tiny())

    def build(self, signal: SignalSpec, dim: int) -> ContextEncoder:
        """Build the encoder of log-mel signals.

        Raises:
            InputError: for another kind of signal.
        """
        if signal.ndim != 1 or signal.channels < 2:
            raise InputError(
                "expected a log-mel spectrogram (several channels, one axis) for a context encoder, received "
                f"{signal.channels} channels and {signal.ndim} axes: use encoder.kind=conv"
            )
        return ContextEncoder(self, signal, dim)


class _Block(nn.Module):
    """x + conv1(GELU(conv3(GELU(norm(x)))))."""

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, channels),
            nn.GELU(),
            nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation),
            nn.GELU(),
            nn.Conv1d(channels, channels, 1),
            nn.Dropout(dropout),
        )

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        return x + self.layers(x)


@final
class ContextNetwork(nn.Module):
    """Strided convolutions over frames, then residual blocks at the rate of the codes.

    Args:
        config: sizes.
        num_mels: number of mel bands of a frame.
    """

    def __init__(self, config: ContextEncoderConfig, num_mels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = num_mels
        for stride in config.strides:
            layers += [
                nn.Conv1d(width, config.channels, 2 * stride, stride, (stride + 1) // 2),
                nn.GELU(),
            ]
            width = config.channels
        self.first = nn.Sequential(*layers)
        self.hidden = nn.Parameter(torch.zeros(config.channels))
        """Embedding of a masked position."""
        self.blocks = nn.ModuleList(
            _Block(config.channels, dilation, config.dropout) for dilation in config.dilations
        )
        self.norm = nn.GroupNorm(1, config.channels)
        self._stride = torch.Size(config.strides).numel()

    def forward(
        self,
        frames: Float[Tensor, "b m t"],
        hidden: Bool[Tensor, "b n"] | None = None,
        layers: int | None = None,
    ) -> Float[Tensor, "b c n"]:
        """Normalised output of the last block, or the raw output of block `layers`.

        Args:
            frames: normalised log-mels; their number is a multiple of the frames per code.
            hidden: mask, True at positions to hide.
            layers: number of blocks to apply; None for all.
        """
        x = self.first(frames)[..., : frames.shape[2] // self._stride]
        if hidden is not None:
            x = torch.where(hidden.unsqueeze(1), self.hidden.view(1, -1, 1), x)
        for block in self.blocks[:layers]:
            x = block(x)
        return F.gelu(self.norm(x)) if layers is None else x


@final
class ContextEncoder(PoolingEncoder):
    """A frozen `ContextNetwork` up to one layer, smoothed in time and projected to the latents.

    Args:
        config: sizes.
        signal: log-mels: bands as channels, frames as the single axis.
        dim: channels of the latents.
    """

    mean: Tensor
    """Mean of the layer's output over speech, `(C,)`."""
    projection: Tensor
    """Projection from the layer's output to latents, `(C, D)`."""

    def __init__(self, config: ContextEncoderConfig, signal: SignalSpec, dim: int) -> None:
        super().__init__(1 + 2 * signal.channels)
        self.config, self.strides = config, config.strides
        stride = torch.Size(config.strides).numel()
        self.voice = VoiceFinder(config.voice, signal, stride)
        self.network = ContextNetwork(config, signal.channels).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("projection", torch.randn(config.channels, dim) / config.channels**0.5)

    def train(self, mode: bool = True) -> ContextEncoder:
        """Keep evaluation mode: the encoder is already trained."""
        del mode
        return super().train(False)

    def pool(self, items: Sequence[Float[Tensor, "m _"]]) -> Float[Tensor, " v"]:
        """Voice statistics of one speaker, from some of the speaker's utterances."""
        return self.voice.voice(items)

    @torch.no_grad()
    def forward(
        self, signal: Float[Tensor, "b m t"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d n"]:
        """Encode log-mels to latents; without a voice condition, each item's voice is estimated from
        itself."""
        with torch.autocast(signal.device.type, enabled=False):  # the codebook was fitted in float32
            features = self.features(signal.float(), conditions) - self.mean.view(1, -1, 1)
            return torch.einsum("bcn,cd->bdn", features, self.projection)

    @torch.no_grad()
    def features(
        self, signal: Float[Tensor, "b m t"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b c n"]:
        """Smoothed output of the layer."""
        voices = conditions.tensor("voice") if conditions is not None else None
        if voices is None:
            voices = self.voice.voices(signal)
        x = self.network(self.voice.normalised(signal, voices), layers=self.config.layer)
        share = self.config.smoothing
        if share and x.shape[2] > 1:
            padded = F.pad(x, (1, 1), mode="replicate")
            x = (1 - 2 * share) * x + share * (padded[..., :-2] + padded[..., 2:])
        return x

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return fitting_grid(size, self.strides)
