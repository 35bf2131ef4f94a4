"""A decoder of speech by harmonics and spectra: Vocos with a source of the predicted pitch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditioners import Conditioner
from smalti.core.conditions import Conditions
from smalti.core.parts import DECODERS, Encoder, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.decoders.conditioned import ConditionedDecoder
from smalti.decoders.spectral import SIZES, Size, SpectraConfig, blocks, quiet
from smalti.nn.convnext import ConvNeXtBlock
from smalti.nn.frames import MOST_LOG_MAGNITUDE, SpectraToWaveform
from smalti.nn.pitch import harmonics
from smalti.nn.seanet import TimeConvolution

LOWEST_HZ, HIGHEST_HZ = 50.0, 500.0
"""Range of the predicted pitch."""
VOICED_HZ = 3000.0, 6000.0
"""Voiced frames have harmonics alone below the first frequency, and none above the second."""
PITCH_BLOCKS = 2


@final
class HarmonicDecoder(ConditionedDecoder):
    """Waveforms as filtered harmonics and noise-like spectra of the same envelope.

        frame = exp(m) [h S(harmonics of F0) + sqrt(1 - h^2) (cos p + i sin p)],  h = v w

    The networks predict the fundamental frequency F0, 50 to 500 Hz, and the probability v of voice of each
    frame, its log-magnitudes m, and the phases p of what is not voiced. The harmonics have unit power at each
    frequency; w falls from 1 at 3 kHz to 0 at 6 kHz. Distances of spectra alone then suffice for a voice,
    where a `SpectralDecoder` needs long training with discriminators for it.

    Harmonics plus noise with one envelope are the model of Stylianou 2001 (doi 10.1109/89.890068), as layers
    of a network those of Wang et al. 2019 (neural source-filter models, arXiv 1904.12088) and Engel et al.
    2020 (DDSP, arXiv 2001.04643), before an inverse short-time Fourier transform as by Li et al. 2023
    (HiFTNet, arXiv 2309.09493). No gradient goes through the harmonics to F0 and v: the term `pitch` of an
    objective trains them.

    The phase of a harmonic depends on all F0 before it, so recordings are decoded as a whole, and it is not
    causal, whatever its encoder is.

    Args:
        dim: channels of the latents.
        sample_rate_hz: of the waveform.
        size: "S", "B" or "L": 192 channels and 5 blocks, 384 and 8, or 512 and 12.
        channels: None for those of the size.
        layers: number of blocks; None for that of the size.
        hop: samples between frames.
        window: samples of a frame: an even number, two or more times the hop.
        rate: frames of a latent.
        conditions: number of ids of each id condition of the data, by name; the decoder embeds `label` (for
            example the speaker).
        label_dropout: share of the labels that training hides, so that items without a label can be decoded.
        conditioners: modules for the activations of the first convolution, on the latents' grid.

    Raises:
        InputError: if the window does not fit the hop.
    """

    predicted = ("pitch",)
    voiced_share: Tensor

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
        rate: int = 2,
        conditions: Mapping[str, int] | None = None,
        label_dropout: float = 0.1,
        conditioners: Mapping[str, Conditioner] | None = None,
    ) -> None:
        width, depth = channels or SIZES[size][0], layers or SIZES[size][1]
        super().__init__(TimeConvolution(dim, width, 7), width, conditions, label_dropout, conditioners)
        self.config = HarmonicDecoderConfig(
            sample_rate_hz=sample_rate_hz,
            size=size,
            channels=channels,
            layers=layers,
            hop=hop,
            window=window,
            strides=(rate, hop),
            use_labels=self.label is not None,
            label_dropout=label_dropout,
            conditioners=self.conditioners.configs(),
        )
        self.sample_rate_hz, self.hop = sample_rate_hz, hop
        self.pitch = nn.Sequential(
            *(ConvNeXtBlock(width, 1 / PITCH_BLOCKS) for _ in range(PITCH_BLOCKS)),
            nn.Conv1d(width, 2 * rate, 1),
        )
        frequencies = window // 2 + 1
        self.layers = nn.Sequential(
            *blocks(width, depth, rate), quiet(nn.Conv1d(width, 2 * frequencies, 1), frequencies)
        )
        self.waveform = SpectraToWaveform(hop, window)
        low, high = VOICED_HZ
        share = (high - torch.linspace(0, sample_rate_hz / 2, frequencies)) / (high - low)
        self.register_buffer("voiced_share", share.clamp(0, 1), persistent=False)

    def upsampled(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b 1 t"]:
        """Add the filtered harmonics and the rest."""
        octaves, voiced = self._pitch(x).detach().unbind(1)
        f0 = octaves.exp2()
        source = harmonics(f0, self.hop, self.sample_rate_hz)
        # One harmonic in F0 Hz has the power of one frequency of the spectra in every F0 Hz.
        spacing = self.sample_rate_hz / self.waveform.length
        voice = self.waveform.frames_of(source) * (f0 / spacing).sqrt().unsqueeze(1)
        share = voiced.sigmoid().unsqueeze(1) * self.voiced_share.float().unsqueeze(1)
        log_magnitudes, phases = self.layers(x).float().chunk(2, 1)
        rest = torch.polar((1 - share.square()).sqrt(), phases)
        # No mel band has the ends of the range, so nothing would limit them.
        magnitudes = F.pad(log_magnitudes[:, 1:-1].clamp_max(MOST_LOG_MAGNITUDE).exp(), (0, 0, 1, 1))
        return self.waveform.added(magnitudes * (share * voice + rest))

    def predictions(
        self, latents: Float[Tensor, "b d n"], conditions: Conditions | None = None
    ) -> dict[str, Tensor]:
        """`pitch`, `(B, 2, frames)`: log2 of F0 in Hz, and the log-odds that the frame is voiced."""
        return {"pitch": self._pitch(self.conditioned(self._first(latents), conditions))}

    def _pitch(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b 2 m"]:
        # Autocast would leave log2 of F0 and the phases to bfloat16.
        predicted = self.pitch(x).float().unflatten(1, (2, -1)).transpose(2, 3).flatten(2)
        share, voiced = predicted.unbind(1)
        octaves = math.log2(LOWEST_HZ) + share.sigmoid() * math.log2(HIGHEST_HZ / LOWEST_HZ)
        return torch.stack([octaves, voiced], 1)


@DECODERS.register
class HarmonicDecoderConfig(SpectraConfig):
    """Settings of a `HarmonicDecoder`.

    Attributes:
        sample_rate_hz: of a signal without a sample rate; that of the signal counts if it has one.
    """

    kind: Literal["harmonic"] = "harmonic"
    sample_rate_hz: int = Field(default=16_000, ge=1)

    def build(
        self,
        signal: SignalSpec,
        dim: int,
        encoder: Encoder,
        likelihood: LikelihoodFamily,
        conditions: Mapping[str, int] | None = None,
    ) -> tuple[HarmonicDecoder, LikelihoodFamily]:
        """Build the decoder; the likelihood is unchanged.

        Raises:
            InputError: if the settings do not fit the signal or the likelihood; see `arguments`.
        """
        rate_hz = signal.sample_rate_hz or self.sample_rate_hz
        arguments = self.arguments(signal, encoder, likelihood, conditions)
        return HarmonicDecoder(dim, sample_rate_hz=rate_hz, **arguments), likelihood
