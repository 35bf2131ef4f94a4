"""Discriminators of waveforms: by their periods, and by their spectra at several resolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.nn.spectral import ShortTimeFourier
from smalti.objectives.base import check_waveforms
from smalti.objectives.discriminators.base import (
    DISCRIMINATORS,
    Discriminator,
    DiscriminatorConfig,
    Verdict,
)

PERIODS = (2, 3, 5, 7, 11)
"""Kong et al. 2020, section 2.3: prime, so that the samples which they regroup overlap least."""
WINDOWS = (2048, 1024, 512)
"""Samples of the windows of Kumar et al. 2023."""
SLOPE = 0.1
"""Of leaky ReLUs."""
QUIET = 1e-2
"""Root mean square that silence counts as: gradients of a crop grow with its amplification, here at most a
hundredfold. Speech at full scale is at about 0.1."""


@final
class WaveformDiscriminator(Discriminator):
    """Multi-period and multi-resolution STFT discriminators, one network for each period and window.

    Sources: HiFi-GAN (Kong et al. 2020, arXiv 2010.05646) for the periods; EnCodec (Défossez et al. 2022,
    arXiv 2210.13438, section 3.4) and DAC (Kumar et al. 2023, arXiv 2306.06546) for complex spectra.

    Each waveform is brought to a root mean square of 1 (DAC: to one peak), and spectra to the variance of
    white noise of that level. Speech is quiet: without this, networks see values near 0, and do not learn.

    Args:
        width: channels of the first layer of every network.
        periods: in samples; () for none.
        windows: lengths of the windows of the spectra, samples; hops are a quarter of a window.

    Raises:
        InputError: without any network, or for a period below 1 or a window below 8 samples.
    """

    def __init__(
        self, width: int = 16, periods: Sequence[int] = PERIODS, windows: Sequence[int] = WINDOWS
    ) -> None:
        super().__init__()
        if not (periods or windows) or min(periods, default=1) < 1 or min(windows, default=8) < 8:
            raise InputError(
                "expected periods of at least 1 sample and windows of at least 8, and one of either, "
                f"received periods {tuple(periods)} and windows {tuple(windows)}: correct them"
            )
        self.config = WaveformDiscriminatorConfig(width=width, periods=tuple(periods), windows=tuple(windows))
        networks = [_OfPeriod(period, width) for period in periods]
        self.networks = nn.ModuleList([*networks, *(_OfSpectrum(window, width) for window in windows)])

    def forward(self, signal: Float[Tensor, "b 1 t"]) -> list[Verdict]:
        """One verdict for each network."""
        # The sum has a finite gradient for silence too.
        signal = signal / (signal.square().mean((1, 2), keepdim=True) + QUIET**2).sqrt()
        return [network(signal) for network in self.networks]


class _Stack(nn.Module):
    """Two-dimensional convolutions with leaky ReLUs, whose outputs are the features, and a last one."""

    def __init__(self, layers: Sequence[nn.Conv2d], head: nn.Conv2d) -> None:
        super().__init__()
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.head = weight_norm(head)

    def forward(self, x: Tensor) -> Verdict:
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return Verdict(self.head(x), tuple(features))


@final
class _OfPeriod(nn.Module):
    """Judges samples that are a period apart: `(B, 1, T)` as a picture `(B, 1, T / period, period)`."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, width, 2 * width, 4 * width, 8 * width]
        layers = [nn.Conv2d(before, after, (5, 1), (3, 1), (2, 0)) for before, after in pairwise(widths)]
        self.stack = _Stack(layers, nn.Conv2d(widths[-1], 1, (3, 1), 1, (1, 0)))

    def forward(self, signal: Float[Tensor, "b 1 t"]) -> Verdict:
        padded = F.pad(signal, (0, -signal.shape[-1] % self.period))
        return self.stack(padded.unflatten(-1, (-1, self.period)))


@final
class _OfSpectrum(nn.Module):
    """Judges a complex spectrogram as a picture with two channels `(B, 2, N, F)`, over time and frequency."""

    def __init__(self, window: int, width: int) -> None:
        super().__init__()
        self.fourier = ShortTimeFourier(window // 4, window)
        # The transform divides a Hann window by a quarter of its length; with this, white noise of variance 1
        # has spectra of variance 1.
        self.scale = math.sqrt(window / 6)
        layers = [
            nn.Conv2d(2, width, (3, 9), (1, 1), (1, 4)),
            *(
                nn.Conv2d(width, width, (3, 9), (1, 2), (dilation, 4), (dilation, 1))
                for dilation in (1, 2, 4)
            ),
            nn.Conv2d(width, width, 3, 1, 1),
        ]
        self.stack = _Stack(layers, nn.Conv2d(width, 1, 3, 1, 1))

    def forward(self, signal: Float[Tensor, "b 1 t"]) -> Verdict:
        # Frames of a signal that is shorter than a hop would be none.
        spectra = self.fourier(F.pad(signal, (0, max(0, self.fourier.hop - signal.shape[-1]))))
        return self.stack(self.scale * torch.view_as_real(spectra).permute(0, 3, 2, 1))


@DISCRIMINATORS.register
class WaveformDiscriminatorConfig(DiscriminatorConfig):
    """Settings of a `WaveformDiscriminator`."""

    kind: Literal["waveform"] = "waveform"
    width: int = Field(default=16, ge=1)
    periods: tuple[int, ...] = PERIODS
    windows: tuple[int, ...] = WINDOWS

    def build(self, signal: SignalSpec) -> WaveformDiscriminator:
        """Build the networks for waveforms."""
        check_waveforms(signal, "a waveform discriminator")
        return WaveformDiscriminator(self.width, self.periods, self.windows)
