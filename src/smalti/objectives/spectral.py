"""Distances between spectra: the Fourier transform of pictures, mel spectrograms of waveforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.nn.spectral import LogMel
from smalti.objectives.base import TERMS, Term, TermConfig, check_pictures, check_waveforms, pictures

WINDOWS_MS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Windows of the mel distance, milliseconds; Kumar et al. 2023 use 32 to 2048 samples at 44.1 kHz."""
MELS_PER_FREQUENCY = 5 / 33
"""Mel channels for each frequency of the transform, as there for the shortest window."""
MOST_MELS = 80


@final
class FrequencyDistance(Term):
    """Focal frequency loss (Jiang et al. 2021, arXiv 2012.12821), of pictures or of the frames of clips.

        loss = mean of w(u) d(u)^2, with d(u) = |F(x̂)(u) - F(x)(u)| and w(u) = (d(u) / max d)^alpha

    F is the orthonormal two-dimensional Fourier transform; the maximum is that of a channel of a picture, and
    w has no gradient.

    Args:
        weight: factor of the term in the objective.
        start: first training step with the term, counted from 0.
        alpha: 0 weights all frequencies alike, which makes it the squared error; higher values emphasise the
            frequencies with the largest errors.
    """

    def __init__(self, weight: float = 1.0, start: int = 0, alpha: float = 1.0) -> None:
        super().__init__(weight, start)
        if alpha < 0:
            raise InputError(f"expected alpha >= 0, received {alpha}: use 0 to weight all frequencies alike")
        self.alpha = alpha

    def forward(
        self, reconstruction: Float[Tensor, "b c *size"], signal: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, ""]:
        """Mean of w(u) d(u)^2 over frequencies."""
        error = pictures(reconstruction - signal).float()
        squares = torch.view_as_real(torch.fft.fft2(error, norm="ortho")).square().sum(-1)
        with torch.no_grad():
            largest = squares.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(squares.dtype).tiny)
            weights = (squares / largest) ** (self.alpha / 2)
        return (weights * squares).mean()


@final
class MelDistance(Term):
    """Mean absolute difference of log-mel spectrograms at several resolutions, averaged over these.

    The multi-resolution mel loss of Kumar et al. 2023 (arXiv 2306.06546), with natural logarithms.

    Args:
        sample_rate_hz: sample rate of the waveforms.
        weight: factor of the term in the objective.
        start: first training step with the term, counted from 0.
        windows_ms: length of the window of each resolution, milliseconds; hops are a quarter of a window.

    Raises:
        InputError: if no window is given, or one is shorter than 8 samples.
    """

    def __init__(
        self,
        sample_rate_hz: int,
        weight: float = 1.0,
        start: int = 0,
        windows_ms: Sequence[float] = WINDOWS_MS,
    ) -> None:
        super().__init__(weight, start)
        lengths = [round(sample_rate_hz * window / 1000) for window in windows_ms]
        if not lengths or min(lengths) < 8:
            raise InputError(
                f"expected windows of at least 8 samples, received {lengths} at {sample_rate_hz} Hz: use "
                "longer windows_ms"
            )
        self.spectrograms = nn.ModuleList(
            LogMel(sample_rate_hz, _num_mels(length), length // 4, length) for length in lengths
        )

    def forward(
        self, reconstruction: Float[Tensor, "b 1 t"], signal: Float[Tensor, "b 1 t"]
    ) -> Float[Tensor, ""]:
        """Mean of |log mel(x̂) - log mel(x)| over the resolutions whose hop is not longer than the waveforms.

        Raises:
            InputError: if the waveforms are shorter than every hop.
        """
        both = torch.cat([reconstruction, signal]).float()
        distances = []
        for spectrogram in self.spectrograms:
            of_reconstruction, of_signal = spectrogram(both).chunk(2)
            if of_signal.numel():
                distances.append((of_reconstruction - of_signal).abs().mean())
        if not distances:
            raise InputError(
                f"expected waveforms of at least a quarter of a window for the term mel, received "
                f"{signal.shape[-1]} samples: use longer crops, or shorter windows_ms"
            )
        return torch.stack(distances).mean()


def _num_mels(window: int) -> int:
    """Number of mel channels of a window: few enough that each contains a frequency of the transform."""
    return max(2, min(MOST_MELS, math.floor(MELS_PER_FREQUENCY * (window // 2 + 1))))


@TERMS.register
class FrequencyDistanceConfig(TermConfig):
    """Settings of a `FrequencyDistance`."""

    kind: Literal["frequency"] = "frequency"
    alpha: float = Field(default=1.0, ge=0)

    def build(self, signal: SignalSpec) -> FrequencyDistance:
        """Build the term."""
        check_pictures(signal, "the term frequency")
        return FrequencyDistance(self.weight, self.start, self.alpha)


@TERMS.register
class MelDistanceConfig(TermConfig):
    """Settings of a `MelDistance`."""

    kind: Literal["mel"] = "mel"
    windows_ms: tuple[float, ...] = WINDOWS_MS

    def build(self, signal: SignalSpec) -> MelDistance:
        """Build the term."""
        check_waveforms(signal, "the term mel")
        assert signal.sample_rate_hz is not None
        return MelDistance(signal.sample_rate_hz, self.weight, self.start, self.windows_ms)
