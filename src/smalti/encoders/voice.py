"""Speaker normalisation of spectrograms, estimated without labels.

A speaker's voice is modelled as a scale factor of the frequency axis (vocal tract length normalisation), and
the mean and the standard deviation of each band in speech. The factor is chosen to bring the speaker's
cepstra closest to clusters over all speakers, as in Uebel & Woodland 1999 with clusters in place of a
recogniser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.config import Configuration
from smalti.core.signals import SignalSpec
from smalti.quantizers.kmeans import kmeans

QUIET, LOUD = 0.05, 0.95
"""Quantiles of an utterance's energy that represent its silence and its speech."""
SPEECH_FROM = 0.35
"""Fraction of the range between these quantiles above which a frame counts as speech."""
MEL_BREAK = 0.8
"""Fraction of the frequency range in which a warp is linear; above it, the warp bends to keep the end
fixed."""
TOP_HZ = 8000.0
"""Upper end of the frequency range, if it is unknown."""
FACTORS = tuple(1 + step * 0.04 for step in range(-4, 5))
"""Candidate scale factors of the frequency axis."""


class VoiceConfig(Configuration):
    """Settings of the cepstra and their clustering.

    Attributes:
        cepstra: number of coefficients per frame, including the zeroth; the same number of time differences
            is added.
        window: number of frames around a code's position that form one feature vector.
        num_clusters: number of clusters over all speakers' cepstra.
        rounds: rounds of choosing factors and re-clustering; 0 leaves all factors at 1.
    """

    cepstra: int = Field(default=13, ge=2)
    window: int = Field(default=8, ge=1)
    num_clusters: int = Field(default=128, ge=2)
    rounds: int = Field(default=3, ge=0)

    @classmethod
    def tiny(cls) -> VoiceConfig:
        """The smallest config with every part, for tests."""
        return cls(cepstra=3, window=4, num_clusters=4, rounds=1)


@final
class VoiceFinder(nn.Module):
    """Estimates voices, removes them from spectrograms, and computes cepstra of the result.

    Args:
        config: sizes.
        signal: log-mels of M bands, up to half the sample rate.
        stride: frames per code.
    """

    reference: Tensor
    """Cluster centres of all speakers' cepstra, `(K, D)`."""
    scale: Tensor
    """Standard deviation of each coefficient and of its time difference, `(2C,)`."""

    def __init__(self, config: VoiceConfig, signal: SignalSpec, stride: int) -> None:
        super().__init__()
        self.config, self.stride, self.num_mels = config, stride, signal.channels
        self.top_hz = TOP_HZ if signal.sample_rate_hz is None else signal.sample_rate_hz / 2
        dim = 2 * config.cepstra * config.window
        self.register_buffer("reference", torch.zeros(config.num_clusters, dim))
        self.register_buffer("scale", torch.ones(2 * config.cepstra))
        self.register_buffer("is_fitted", torch.zeros((), dtype=torch.bool))

    is_fitted: Tensor

    @torch.no_grad()
    def fit(self, speakers: Mapping[int, Sequence[Float[Tensor, "m _"]]], seed: int = 0) -> dict[int, Tensor]:
        """Fit the clusters to all speakers' spectrograms; return the voice of each speaker.

        Args:
            speakers: utterances of each speaker.
            seed: of the clustering.
        """
        factors = dict.fromkeys(speakers, 1.0)
        voices = {name: self._voice(utterances, 1.0) for name, utterances in speakers.items()}
        self._set_scale(speakers, voices)
        for round_ in range(self.config.rounds + 1):
            cepstra = [self._speech_cepstra(utterances, voices[n]) for n, utterances in speakers.items()]
            self.reference.copy_(kmeans(torch.cat(cepstra), self.config.num_clusters, seed, 15))
            if round_ == self.config.rounds:
                break
            factors = {name: self._factor(utterances) for name, utterances in speakers.items()}
            voices = {name: self._voice(u, factors[name]) for name, u in speakers.items()}
        self.is_fitted.fill_(True)
        # By the final clusters, as every voice is estimated from now on.
        return {name: self.voice(utterances) for name, utterances in speakers.items()}

    @torch.no_grad()
    def voice(self, utterances: Sequence[Float[Tensor, "m _"]]) -> Float[Tensor, " v"]:
        """Estimate a speaker's voice from some utterances: factor, means and deviations, V = 1 + 2M."""
        factor = self._factor(utterances) if self.is_fitted and self.config.rounds else 1.0
        return self._voice(utterances, factor)

    @torch.no_grad()
    def voices(self, signal: Float[Tensor, "b m t"]) -> Float[Tensor, "b v"]:
        """Estimate the voice of each item from that item alone."""
        return torch.stack([self.voice([item]) for item in signal])

    def normalised(
        self, signal: Float[Tensor, "b m t"], voices: Float[Tensor, "b v"]
    ) -> Float[Tensor, "b m t"]:
        """Remove the speakers' voices from spectrograms."""
        factors, mean, deviation = voices.split((1, self.num_mels, self.num_mels), 1)
        frames = warped(signal, factors.squeeze(1), self.top_hz)
        return (frames - mean.unsqueeze(2)) / deviation.unsqueeze(2)

    @torch.no_grad()
    def cepstra(self, frames: Float[Tensor, "b m t"]) -> Float[Tensor, "b n d"]:
        """Cepstra and their time differences in the window around each position of normalised
        spectrograms."""
        transform = _cosines(self.num_mels, self.config.cepstra).to(frames)
        with torch.autocast(frames.device.type, enabled=False):  # targets must not depend on precision
            each = torch.einsum("bmt,mc->bct", frames.float(), transform.float())
        padded = F.pad(each, (2, 2), mode="replicate")
        slope = (2 * (padded[..., 4:] - padded[..., :-4]) + padded[..., 3:-1] - padded[..., 1:-3]) / 10
        both = torch.cat([each, slope], 1) / self.scale.view(1, -1, 1)
        num = frames.shape[2] // self.stride
        before = max(0, (self.config.window - self.stride) // 2)
        after = max(0, self.config.window - self.stride - before)
        windows = F.pad(both, (before, after), mode="replicate").unfold(2, self.config.window, self.stride)
        return windows[:, :, :num].permute(0, 2, 1, 3).flatten(2)

    def _voice(self, utterances: Sequence[Float[Tensor, "m _"]], factor: float) -> Float[Tensor, " v"]:
        frames = torch.cat(
            [_warped(u, factor, self.top_hz)[:, is_speech(u.unsqueeze(0))[0]] for u in utterances], 1
        )
        if frames.shape[1] < 2:  # only silence
            frames = torch.cat([_warped(u, factor, self.top_hz) for u in utterances], 1)
        deviation = frames.std(1, correction=0).clamp_min(1e-2)
        return torch.cat([frames.new_tensor([factor]), frames.mean(1), deviation])

    def _factor(self, utterances: Sequence[Float[Tensor, "m _"]]) -> float:
        """Factor whose cepstra are closest to the clusters."""
        distances = []
        for factor in FACTORS:
            cepstra = self._speech_cepstra(utterances, self._voice(utterances, factor))
            nearest = [torch.cdist(part, self.reference).amin(1).square() for part in cepstra.split(8192)]
            distances.append(torch.cat(nearest).mean().item())
        return FACTORS[min(range(len(FACTORS)), key=distances.__getitem__)]

    def _speech_cepstra(
        self, utterances: Sequence[Float[Tensor, "m _"]], voice: Float[Tensor, " v"]
    ) -> Float[Tensor, "n d"]:
        """Cepstra of the positions of speech (of all positions, if there is no speech)."""
        kept = []
        for utterance in utterances:
            signal = utterance.unsqueeze(0)
            cepstra = self.cepstra(self.normalised(signal, voice.unsqueeze(0)))[0]
            speech = speech_positions(signal, self.stride)[0]
            kept.append(cepstra[speech] if speech.any() else cepstra)
        return torch.cat(kept)

    def _set_scale(self, speakers: Mapping[int, Sequence[Tensor]], voices: Mapping[int, Tensor]) -> None:
        self.scale.fill_(1)
        cepstra = torch.cat([self._speech_cepstra(u, voices[n]) for n, u in speakers.items()])
        each = cepstra.unflatten(1, (2 * self.config.cepstra, self.config.window))
        self.scale.copy_(each.square().mean((0, 2)).sqrt().clamp_min(1e-6))


def is_speech(signal: Float[Tensor, "b m t"]) -> Bool[Tensor, "b t"]:
    """Classify each frame of a log-mel spectrogram as speech by its energy relative to its utterance."""
    energy = signal.mean(1)
    quiet, loud = torch.quantile(energy, torch.tensor([QUIET, LOUD], device=energy.device), 1)
    return energy > (quiet + SPEECH_FROM * (loud - quiet)).unsqueeze(1)


def speech_positions(signal: Float[Tensor, "b m t"], stride: int) -> Bool[Tensor, "b n"]:
    """Classify each code position as speech if most of its frames are."""
    return F.avg_pool1d(is_speech(signal).to(signal).unsqueeze(1), stride).squeeze(1) > 0.5


def warped(
    frames: Float[Tensor, "b m t"], factors: Float[Tensor, " b"], top_hz: float = TOP_HZ
) -> Float[Tensor, "b m t"]:
    """Resample spectra at a factor times each frequency; a factor above 1 shifts their content down.

    Piecewise linear in Hz (Jaitly & Hinton 2013), so that the end of the range stays fixed. The bands are
    assumed evenly spaced in mel from 0 to `top_hz`.
    """
    num_mels = frames.shape[1]
    place = torch.arange(1, num_mels + 1, device=frames.device) / (num_mels + 1)
    span = math.log10(1 + top_hz / 700)
    hz = 700 * (10 ** (place * span) - 1)
    end = hz[-1]
    bend = end * MEL_BREAK
    factor = factors.unsqueeze(1)
    above = end - (end - hz) * (end - factor * bend) / (end - bend)
    moved = torch.where(hz < bend, hz * factor, above)
    at = (torch.log10(moved / 700 + 1) / span * (num_mels + 1) - 1).clamp(0, num_mels - 1.001)
    low = at.floor().long()
    share = (at - low).unsqueeze(2)
    below = low.unsqueeze(2).expand_as(frames)
    return frames.gather(1, below) * (1 - share) + frames.gather(1, below + 1) * share


def _warped(frames: Float[Tensor, "m t"], factor: float, top_hz: float) -> Float[Tensor, "m t"]:
    if factor == 1:
        return frames
    return warped(frames.unsqueeze(0), torch.tensor([factor], device=frames.device), top_hz)[0]


def _cosines(num_mels: int, num: int) -> Float[Tensor, "m c"]:
    """First columns of the cosine transform over the bands."""
    bands = (torch.arange(num_mels) + 0.5) * math.pi / num_mels
    return torch.cos(bands.unsqueeze(1) * torch.arange(num)) * math.sqrt(2 / num_mels)
