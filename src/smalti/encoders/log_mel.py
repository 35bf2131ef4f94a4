"""The encoder that hears as ears do: a fixed log-mel front end, then the paper's convolutions over frames.

van Niekerk et al. 2020 (arXiv 2005.09409) and Chorowski et al. 2019 (arXiv 1901.08810) found that units of
speech are learned better from spectra than from the waveform.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.parts import Encoder
from smalti.core.signals import SignalSpec
from smalti.encoders.conv import ConvEncoder, ConvEncoderConfig, fitting_grid
from smalti.nn.spectral import LogMel, mu_law_decode

MU_LAW_LEVELS = 256
"""Levels of a companded waveform."""


class LogMelEncoderConfig(Configuration):
    """The front end, and the network over its frames.

    Attributes:
        sample_rate_hz: of the waveform.
        hop: samples from frame to frame.
        window: samples of a frame.
        num_mels: bands.
        companded: whether the signal is mu-law companded, and has to be expanded first.
        network: over the frames; its strides times `hop` are samples a code.
    """

    kind: Literal["log_mel"] = "log_mel"
    sample_rate_hz: int = Field(default=16_000, ge=1000)
    hop: int = Field(default=160, ge=1)
    window: int = Field(default=400, ge=2)
    num_mels: int = Field(default=80, ge=1)
    companded: bool = True
    network: ConvEncoderConfig = ConvEncoderConfig(channels=128, residual_channels=64, strides=(2,))

    @classmethod
    def tiny(cls) -> LogMelEncoderConfig:
        """The smallest that still has every part."""
        network = ConvEncoderConfig.tiny().model_copy(update={"strides": (2,)})
        return cls(sample_rate_hz=1000, hop=2, window=8, num_mels=4, network=network)


@final
class LogMelEncoder(Encoder):
    """Waveform -> log-mel frames, each band normalised over the signal's time -> convolutions -> latents.

    The normalisation takes away level and channel, which are not content; a crop is normalised by itself.

    Args:
        config: front end and network.
        signal: of one channel and one axis.
        dim: channels of the latents.

    Raises:
        InputError: when the signal is no waveform, or is of another rate or encoding than the settings say.
    """

    def __init__(self, config: LogMelEncoderConfig, signal: SignalSpec, dim: int) -> None:
        super().__init__()
        if (signal.channels, signal.ndim) != (1, 1):
            raise InputError(
                f"expected a waveform (one channel, one axis) for a log-mel encoder, received "
                f"{signal.channels} channels and {signal.ndim} axes: take encoder.kind=conv"
            )
        for key, expected, received in (
            ("sample_rate_hz", signal.sample_rate_hz, config.sample_rate_hz),
            ("companded", signal.levels == MU_LAW_LEVELS, config.companded),
        ):
            # Of a signal without a rate nothing more is known either.
            if signal.sample_rate_hz is not None and expected != received:
                raise InputError(
                    f"expected model.encoder.{key}={expected}, as the data has it, received {received}: set "
                    "both alike"
                )
        self.strides = (config.hop, *config.network.strides)
        self.companded = config.companded
        self.front_end = LogMel(
            sample_rate_hz=config.sample_rate_hz,
            n_fft=config.window,
            hop=config.hop,
            num_mels=config.num_mels,
        )
        frames = SignalSpec(config.num_mels, (max(1, signal.size[0] // config.hop),))
        self.network = ConvEncoder(config.network, frames, dim)

    def forward(
        self, signal: Float[Tensor, "b 1 t"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d n"]:
        """Latents of waveforms in the model range."""
        waveform = mu_law_decode(signal) if self.companded else signal
        frames = self.front_end(waveform)
        mean, deviation = frames.mean(2, keepdim=True), frames.std(2, keepdim=True, correction=0)
        return self.network((frames - mean) / (deviation + 1e-2))

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return fitting_grid(size, self.strides)
