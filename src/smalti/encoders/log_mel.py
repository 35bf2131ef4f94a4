"""Log-mel encoder: a fixed log-mel front end, followed by the paper's convolutions over frames.

van Niekerk et al. 2020 (arXiv 2005.09409) and Chorowski et al. 2019 (arXiv 1901.08810) found that speech
units are learned better from spectra than from the waveform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.parts import ENCODERS, Encoder, EncoderConfig
from smalti.core.signals import SignalSpec
from smalti.encoders.conv import ConvEncoderConfig
from smalti.encoders.strided import fitting_grid
from smalti.nn.spectral import MU_LAW_LEVELS, LogMel, mu_law_decode

NETWORK = ConvEncoderConfig(channels=128, residual_channels=64, strides=(2,))
"""Default network over the frames."""
_SETTINGS = ("sample_rate_hz", "hop", "window", "num_mels", "companded", "network")


def check_waveforms(signal: SignalSpec, sample_rate_hz: int, companded: bool) -> None:
    """Check that an encoder of log-mels fits its signal.

    Args:
        signal: the signal.
        sample_rate_hz: of the encoder's waveforms.
        companded: whether the encoder expects mu-law levels.

    Raises:
        InputError: if the signal is not a waveform, or its rate or encoding differs.
    """
    if (signal.channels, signal.ndim) != (1, 1):
        raise InputError(
            f"expected a waveform (one channel, one axis) for an encoder of log-mels, received "
            f"{signal.channels} channels and {signal.ndim} axes: use encoder.kind=conv"
        )
    for key, expected, received in (
        ("sample_rate_hz", signal.sample_rate_hz, sample_rate_hz),
        ("companded", signal.levels == MU_LAW_LEVELS, companded),
    ):
        # For a signal without a sample rate, the companding is not known either.
        if signal.sample_rate_hz is not None and expected != received:
            raise InputError(
                f"expected model.encoder.{key}={expected}, as in the data, received {received}: set "
                "both to the same value"
            )


@ENCODERS.register
class LogMelEncoderConfig(EncoderConfig):
    """Settings of a `LogMelEncoder`.

    Attributes:
        sample_rate_hz: of the waveform.
        hop: samples between frames.
        window: samples per frame.
        num_mels: number of mel bands.
        companded: whether the signal is mu-law companded and must be expanded first.
        network: network over the frames; the product of its strides times `hop` is the samples per code.
    """

    kind: Literal["log_mel"] = "log_mel"
    sample_rate_hz: int = Field(default=16_000, ge=1000)
    hop: int = Field(default=160, ge=1, le=1 << 16)
    window: int = Field(default=400, ge=2, le=1 << 16)
    num_mels: int = Field(default=80, ge=1, le=1024)
    companded: bool = True
    network: ConvEncoderConfig = NETWORK

    @classmethod
    def tiny(cls) -> LogMelEncoderConfig:
        """The smallest config with every part, for tests."""
        network = ConvEncoderConfig.tiny().model_copy(update={"strides": (2,)})
        return cls(sample_rate_hz=1000, hop=2, window=8, num_mels=4, network=network)

    def build(self, signal: SignalSpec, dim: int) -> LogMelEncoder:
        """Build the encoder of waveforms.

        Raises:
            InputError: if the signal is not a waveform, or its rate or encoding differs from the settings.
        """
        check_waveforms(signal, self.sample_rate_hz, self.companded)
        return LogMelEncoder(dim, **{name: getattr(self, name) for name in _SETTINGS})


@final
class LogMelEncoder(Encoder):
    """Computes log-mel frames, normalises each band over time, and encodes the frames by convolutions.

    The normalisation removes level and channel, which are not content; each crop is normalised separately.

    Args:
        dim: channels of the latents.
        sample_rate_hz: of the waveform.
        hop: samples between frames.
        window: samples per frame.
        num_mels: number of mel bands.
        companded: whether the signal is mu-law companded and must be expanded first.
        network: network over the frames; the product of its strides times `hop` is the samples per code.
    """

    def __init__(
        self,
        dim: int = 64,
        *,
        sample_rate_hz: int = 16_000,
        hop: int = 160,
        window: int = 400,
        num_mels: int = 80,
        companded: bool = True,
        network: ConvEncoderConfig = NETWORK,
    ) -> None:
        super().__init__()
        self.config = LogMelEncoderConfig(
            sample_rate_hz=sample_rate_hz,
            hop=hop,
            window=window,
            num_mels=num_mels,
            companded=companded,
            network=network,
        )
        self.strides = (hop, *network.strides)
        self.companded = companded
        self.front_end = LogMel(sample_rate_hz=sample_rate_hz, n_fft=window, hop=hop, num_mels=num_mels)
        self.network = network.build(SignalSpec(num_mels, (math.prod(network.strides),)), dim)

    def forward(
        self, signal: Float[Tensor, "b 1 t"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d n"]:
        """Encode waveforms in the model's range to latents."""
        waveform = mu_law_decode(signal) if self.companded else signal
        frames = self.front_end(waveform)
        mean, deviation = frames.mean(2, keepdim=True), frames.std(2, keepdim=True, correction=0)
        return self.network((frames - mean) / (deviation + 1e-2))

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return fitting_grid(size, self.strides)
