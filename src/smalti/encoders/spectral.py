"""An encoder of waveforms by their log-mel frames and ConvNeXt blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.locality import Extent, ReceptiveField
from smalti.core.parts import ENCODERS, Encoder, EncoderConfig
from smalti.core.signals import SignalSpec
from smalti.encoders.log_mel import check_waveforms
from smalti.encoders.strided import fitting_grid
from smalti.nn.blocks import Stride
from smalti.nn.convnext import ConvNeXtBlock
from smalti.nn.frames import MelFrames
from smalti.nn.receptive import receptive_field, within
from smalti.nn.seanet import TimeConvolution
from smalti.nn.spectral import mu_law_decode

Size = Literal["S", "B", "L"]
SIZES: dict[Size, tuple[int, int]] = {"S": (128, 4), "B": (256, 6), "L": (512, 8)}
"""Channels and number of blocks, by the name of a size."""


@final
class SpectralEncoder(Encoder):
    """Log-mel frames, ConvNeXt blocks over them, and a strided convolution to the rate of the latents.

    The blocks are those of Vocos (Siuzdak 2023, arXiv 2306.00814), whose features are log-mels too. Latents
    depend on a bounded part of the signal, so recordings of any length are encoded in windows and as streams;
    the level of a recording is kept, unlike by `LogMelEncoder`. Phases are not: the decoder makes its own.

    Args:
        dim: channels of the latents.
        sample_rate_hz: of the waveform.
        size: "S", "B" or "L": 128 channels and 4 blocks, 256 and 6, or 512 and 8.
        channels: None for those of the size.
        layers: number of blocks; None for that of the size.
        hop: samples between frames.
        window: samples of a frame: an even number, two or more times the hop.
        num_mels: number of mel bands.
        rate: frames of a latent.
        companded: whether the signal is mu-law companded and must be expanded first.
        causal: whether latents depend on no samples after their span.

    Raises:
        InputError: if the window does not fit the hop, or the mel bands are too narrow.
    """

    def __init__(
        self,
        dim: int = 64,
        *,
        sample_rate_hz: int = 16_000,
        size: Size = "S",
        channels: int | None = None,
        layers: int | None = None,
        hop: int = 160,
        window: int = 640,
        num_mels: int = 80,
        rate: int = 2,
        companded: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.config = SpectralEncoderConfig(
            sample_rate_hz=sample_rate_hz,
            size=size,
            channels=channels,
            layers=layers,
            hop=hop,
            window=window,
            num_mels=num_mels,
            rate=rate,
            companded=companded,
            causal=causal,
        )
        self.strides, self.causal, self.companded = (hop, rate), causal, companded
        width, depth = channels or SIZES[size][0], layers or SIZES[size][1]
        self.layers = nn.Sequential(
            MelFrames(sample_rate_hz, num_mels, hop, window, causal),
            TimeConvolution(num_mels, width, 7, causal=causal),
            *(ConvNeXtBlock(width, 1 / depth, causal) for _ in range(depth)),
            TimeConvolution(width, dim, 2 * rate + rate % 2, rate, causal=causal),
        )

    def forward(
        self, signal: Float[Tensor, "b 1 t"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d n"]:
        """Encode waveforms in the model's range to latents."""
        return self.layers(self._linear(signal))

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return fitting_grid(size, self.strides)

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Of the frames and the convolutions."""
        return receptive_field(self.layers, 1, self.strides[0] * self.strides[1])

    def within(
        self, signal: Float[Tensor, "b 1 t"], extent: Extent, conditions: Conditions | None = None
    ) -> Float[Tensor, "b d n"]:
        """Encode windows of longer signals to latents."""
        return within(self.layers, self._linear(signal), extent)

    def _linear(self, signal: Float[Tensor, "b 1 t"]) -> Float[Tensor, "b 1 t"]:
        return mu_law_decode(signal) if self.companded else signal


@ENCODERS.register
class SpectralEncoderConfig(EncoderConfig):
    """Settings of a `SpectralEncoder`."""

    kind: Literal["spectral"] = "spectral"
    sample_rate_hz: int = Field(default=16_000, ge=1)
    size: Size = "S"
    channels: int | None = Field(default=None, ge=1)
    layers: int | None = Field(default=None, ge=1)
    hop: int = Field(default=160, ge=1, le=1 << 16)
    window: int = Field(default=640, ge=2, le=1 << 16)
    num_mels: int = Field(default=80, ge=1, le=1024)
    rate: Stride = 2
    companded: bool = False
    causal: bool = False

    @classmethod
    def tiny(cls) -> SpectralEncoderConfig:
        """The smallest config with every part, for tests."""
        return cls(sample_rate_hz=1000, channels=4, layers=1, hop=2, window=8, num_mels=3, rate=2)

    def build(self, signal: SignalSpec, dim: int) -> SpectralEncoder:
        """Build the encoder of waveforms.

        Raises:
            InputError: if the signal is not a waveform, or its rate or encoding differs from the settings.
        """
        check_waveforms(signal, self.sample_rate_hz, self.companded)
        return SpectralEncoder(dim, **self.model_dump(exclude={"kind"}))
