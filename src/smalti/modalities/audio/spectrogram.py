"""The log-mel modality: spectrograms of mel channels over frames, in 256 levels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from pydantic import Field, PositiveInt
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.modality import MODALITIES, Modality
from smalti.core.signals import Levels, SignalSpec
from smalti.data.sources.base import UnreadableItem
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.modalities.audio.sounds import EXTENSIONS, write_sound
from smalti.modalities.audio.stream import LogMelStream, check_length
from smalti.modalities.audio.waveforms import SoundConfig, only, separate, spectrogram_figure, waveforms
from smalti.nn.spectral import BLOCK, FLOOR, LogMel, griffin_lim

LEVELS = 256

NATS = (math.log(FLOOR), math.log(2.0))
"""Range without normalisation, in nats: from `LogMel`'s floor to a full-scale sine."""

DEVIATIONS = 4.0
"""Range with normalisation, in standard deviations; a share of 6e-5 of a Gaussian lies beyond."""
LEAST_DEVIATION = 0.01
"""Smallest standard deviation to divide by, in nats, so that rounding errors are not amplified."""
TYPICAL = (-7.7, 1.75)
"""Mean and standard deviation of speech (AN4 and speechocean762), in nats: similar in all channels."""


@MODALITIES.register
class LogMelConfig(SoundConfig):
    """Settings of `LogMelModality`.

    Attributes:
        num_mels: number of mel channels, from 0 Hz to half the sample rate.
        hop: samples between successive frames.
        window: samples of the Hann window of a frame.
        length: frames per training crop.
        normalise: "utterance" standardises each channel over the sound, which removes loudness and most of
            the effect of microphone and room, and clips at 4 standard deviations; "none" keeps the range from
            silence to full scale.
    """

    signal_fields: ClassVar[tuple[str, ...]] = ("sample_rate_hz", "num_mels", "hop", "window", "normalise")

    kind: Literal["log_mel"] = "log_mel"
    num_mels: int = Field(default=80, ge=1, le=1024)
    hop: int = Field(default=160, ge=1, le=1 << 16)
    window: int = Field(default=400, ge=1, le=1 << 16)
    length: PositiveInt = 128
    normalise: Literal["none", "utterance"] = "utterance"

    @classmethod
    def tiny(cls) -> LogMelConfig:
        """Return the smallest useful settings, for tests."""
        return cls(sample_rate_hz=4000, num_mels=8, hop=32, window=64, length=16)

    def build(self) -> LogMelModality:
        """Build the modality."""
        return LogMelModality(self)


def _of_utterance(log_mel: Float[Tensor, "b m n"]) -> Float[Tensor, "b m n"]:
    mean = log_mel.mean(-1, keepdim=True)
    deviation = log_mel.std(-1, correction=0, keepdim=True).clamp_min(LEAST_DEVIATION)
    return ((log_mel - mean) / (deviation * DEVIATIONS)).clamp(-1, 1)


def _to_typical(signal: Float[Tensor, "b m n"]) -> Float[Tensor, "b m n"]:
    mean, deviation = TYPICAL
    return signal * (deviation * DEVIATIONS) + mean


def _of_range(log_mel: Float[Tensor, "b m n"]) -> Float[Tensor, "b m n"]:
    low, high = NATS
    return ((log_mel - low) * (2 / (high - low)) - 1).clamp(-1, 1)


def _to_range(signal: Float[Tensor, "b m n"]) -> Float[Tensor, "b m n"]:
    low, high = NATS
    return (signal + 1) * ((high - low) / 2) + low


NORMALISATIONS = {"none": (_of_range, _to_range), "utterance": (_of_utterance, _to_typical)}
"""Conversions from nats to [-1, 1] and back; "utterance" cannot be inverted exactly."""


PADDING = {"none": 0, "utterance": LEVELS // 2}
"""Fill level: that of silence or, after normalisation, that of the channel mean."""


@final
class LogMelModality(Modality):
    """Log-mel spectrograms `(B, M, N)` in 256 levels, which a model sees in [-1, 1].

    Frame i is centred on sample i*hop + hop/2; T samples give T // hop frames.
    """

    extensions = EXTENSIONS
    ending = ".wav"
    plural_name = "sounds"
    is_ragged = True

    def __init__(self, config: LogMelConfig) -> None:
        """
        Raises:
            InputError: if the mel channels are too narrow, or the hop too long, for the window.
        """
        self.config = config
        self.pattern, self.sample_rate_hz = config.pattern, config.sample_rate_hz
        self.padding = PADDING[config.normalise]
        self.log_mel = LogMel(config.sample_rate_hz, config.num_mels, config.hop, config.window)
        self._normalise, self._restore = NORMALISATIONS[config.normalise]

    @property
    def spec(self) -> SignalSpec:
        """Mel channels, the length of a training crop, and the levels."""
        return SignalSpec(
            channels=self.config.num_mels,
            size=(self.config.length,),
            domain=Levels(LEVELS),
            axes=("time",),
            sample_rate_hz=self.sample_rate_hz,
        )

    def protocol(self) -> dict[str, Any]:
        """Return every setting that affects measurements on these sounds, as plain JSON values."""
        config = self.config
        return {
            **config.reading(),
            "num_mels": config.num_mels,
            "mel": "Slaney's scale, peak norm, natural log of magnitudes",
            "hop": config.hop,
            "window": config.window,
            "normalise": config.normalise,
            "range": [-1.0, 1.0],
            "levels": LEVELS,
        }

    def decode(self, content: Path | bytes | np.ndarray) -> UInt8[np.ndarray, "m n"]:
        """Read one sound as the levels of its spectrogram.

        Args:
            content: a file, its bytes, or samples, as for `read_sound`.

        Raises:
            UnreadableItem: with the reason, if the sound cannot be read or is shorter than one frame.
        """
        samples = torch.from_numpy(self.config.read(content))
        if len(samples) < self.config.hop:
            raise UnreadableItem(
                f"too short: it has {len(samples)} samples, and one frame takes {self.config.hop}"
            )
        return self.to_stored(self.from_waveform(samples[None, None]))[0].numpy()

    def to_model(self, levels: UInt8[Tensor, "b m n"]) -> Float32[Tensor, "b m n"]:
        """Convert levels to [-1, 1]."""
        return from_levels(levels, LEVELS)

    def to_stored(self, signal: Float[Tensor, "b m n"]) -> UInt8[Tensor, "b m n"]:
        """Convert [-1, 1] to the nearest level, clipped: the exact inverse of `to_model`."""
        return to_levels(signal.detach(), LEVELS).to(torch.uint8)

    def from_waveform(self, waveform: Float[Tensor, "b 1 t"]) -> Float[Tensor, "b m n"]:
        """Compute the spectrogram of linear amplitude, in the model's range."""
        return self._normalise(torch.cat([self._spectra(one) for one in waveform.split(1)]))

    def _spectra(self, waveform: Float[Tensor, "1 1 t"]) -> Float[Tensor, "1 m n"]:
        frames = waveform.shape[-1] // self.config.hop
        if not frames:
            return self.log_mel(waveform)
        blocks = range(-(-frames // BLOCK))
        return torch.cat([self.log_mel.block(waveform, number, frames) for number in blocks], -1)

    def stream(self) -> LogMelStream:
        """Return a converter of blocks of linear amplitude, as for `check`.

        Raises:
            InputError: if utterances are normalised.
        """
        if self.config.normalise != "none":
            raise InputError(
                "expected spectrograms without normalisation over the utterance for a stream, received "
                f"normalise={self.config.normalise}: train with data.normalise=none, or pass whole sounds to "
                "encode"
            )
        return LogMelStream(self.log_mel, self._quantized)

    def blocks(self, content: Any) -> Iterator[Float32[np.ndarray, " t"]] | None:
        """Read a long file block by block; None for any other content, or if utterances are normalised.

        Raises:
            UnreadableItem: with the reason, if the sound cannot be read; the iterator raises it, too.
        """
        return None if self.config.normalise != "none" else self.config.blocks(content)

    def _quantized(self, log_mel: Float[Tensor, "b m n"]) -> Float32[Tensor, "b m n"]:
        """Levels of a spectrogram in nats, in the model's range."""
        return self.to_model(self.to_stored(self._normalise(log_mel)))

    def waveform(self, signal: Float[Tensor, "b m n"]) -> Float[Tensor, "b 1 t"]:
        """Approximate the waveform of a spectrogram in the model's range: linear amplitude in [-1, 1].

        Griffin-Lim estimates the phases. If utterances are normalised, loudness and timbre are those of
        typical speech. The result is intelligible, but not suited to judge audio quality.
        """
        sound = griffin_lim(self._restore(signal.detach().float().cpu()), self.log_mel)
        return sound.clamp(-1, 1)

    def seconds(self, length: int) -> float:
        """Return the duration of `length` frames, in seconds."""
        return length * self.config.hop / self.config.sample_rate_hz

    def render(self, signal: Float[Tensor, "b m n"]) -> Float[Tensor, "b 1 t"]:
        """Convert a signal in the model's range to linear amplitude in [-1, 1], as `waveform` does."""
        return self.waveform(signal)

    def check(self, signal: Any) -> list[Float32[Tensor, "1 m _"]]:
        """Validate sounds from the user and return their spectrograms in the model's range, one per sound.

        Spectrograms are quantized to levels, so that a tensor gives the same signal as a file of its samples.

        Args:
            signal: a file or its bytes, read by `decode`; linear amplitude in [-1, 1] at the sample rate, as
                a float tensor or array `(T,)`, `(1, T)` or `(B, 1, T)`; or a list of these.

        Raises:
            InputError: for another type, shape or range, for less than one frame, or for an unreadable file.
        """
        sounds = waveforms(signal, self.config.read)
        check_length(min(sound.shape[-1] for sound in sounds), self.config.hop)
        return [self.to_model(self.to_stored(self.from_waveform(sound))) for sound in sounds]

    def preview(self, rows: Sequence[Any]) -> Image.Image:
        """Plot spectrograms: one row per element of `rows`, one column per sound, at most eight.

        Args:
            rows: batches `(B, M, N)`, or lists of `(M, N)`; levels or floats in [-1, 1].

        Raises:
            InputError: if the rows are empty or differ in length.
        """
        channels = self.config.num_mels
        return spectrogram_figure(
            [[self._floats(signal) for signal in separate(row, channels)] for row in rows],
            self.config.hop / self.config.sample_rate_hz,
            self.log_mel.centres_hz,
            (-1.0, 1.0),
        )

    def save(self, signal: Tensor | np.ndarray, path: str | Path) -> None:
        """Write the approximate waveform of one spectrogram as WAV or FLAC, by the extension of the path.

        Args:
            signal: `(M, N)` or `(1, M, N)`, levels or floats in [-1, 1].
            path: path of the file.

        Raises:
            InputError: if the signal is not one spectrogram, or the path has another extension.
        """
        sound = self.waveform(self._floats(only(signal, self.config.num_mels))[None])
        write_sound(sound[0, 0].numpy(), path, self.config.sample_rate_hz)

    def _floats(self, signal: Tensor) -> Float32[Tensor, "m n"]:
        """Convert levels or floats to the model's range."""
        return signal.float().clamp(-1, 1) if signal.is_floating_point() else self.to_model(signal[None])[0]
