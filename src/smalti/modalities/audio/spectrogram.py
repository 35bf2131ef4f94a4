"""Log-mel spectrograms as a modality: mel channels over frames, in 256 levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.modality import MODALITIES, Modality
from smalti.core.signals import Levels, SignalSpec
from smalti.data.sources.base import UnreadableItem
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.modalities.audio.sounds import EXTENSIONS, write_sound
from smalti.modalities.audio.waveforms import SoundConfig, only, separate, spectrogram_figure, waveforms
from smalti.nn.spectral import FLOOR, LogMel, griffin_lim

LEVELS = 256

NATS = (math.log(FLOOR), math.log(2.0))
"""The range without normalisation: from `LogMel`'s floor to what a full-scale sine gives in its channels."""

DEVIATIONS = 4.0
"""The range with normalisation: a share of 6e-5 of a Gaussian lies beyond."""
LEAST_DEVIATION = 0.01
"""Nats; what varies less is rounding, which is not to be amplified."""
TYPICAL = (-7.7, 1.75)
"""Mean and deviation of speech (AN4 and speechocean762), nats: nearly the same in every channel."""


@MODALITIES.register
class LogMelConfig(SoundConfig):
    """How log-mel spectrograms are made.

    Attributes:
        num_mels: channels, from 0 to half the sample rate.
        hop: samples from frame to frame.
        window: samples that a frame sees, with a Hann window.
        length: frames of a training crop.
        normalise: "utterance" takes each channel's mean over the sound away and divides by its deviation,
            which removes loudness and much of microphone and room, and cuts at 4 deviations; "none" keeps
            the range from silence to full scale.
    """

    kind: Literal["log_mel"] = "log_mel"
    num_mels: PositiveInt = 80
    hop: PositiveInt = 160
    window: PositiveInt = 400
    length: PositiveInt = 128
    normalise: Literal["none", "utterance"] = "utterance"

    @classmethod
    def tiny(cls) -> LogMelConfig:
        """The smallest useful one, for tests."""
        return cls(sample_rate_hz=4000, num_mels=8, hop=32, window=64, length=16)

    def build(self) -> LogMelModality:
        """The modality."""
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
"""From nats to [-1, 1], and back as far as that can be known."""


PADDING = {"none": 0, "utterance": LEVELS // 2}
"""The level of silence; after normalisation, which hides what silence was, that of the mean."""


@final
class LogMelModality(Modality):
    """Log-mel spectrograms as signals `(B, M, N)`: 256 levels, in [-1, 1] for a model.

    Frame i is centred on sample i*hop + hop/2; T samples have T // hop frames.
    """

    extensions = EXTENSIONS
    ending = ".wav"
    plural_name = "sounds"
    is_ragged = True

    def __init__(self, config: LogMelConfig) -> None:
        """
        Raises:
            InputError: when the channels are too narrow, or the hop too long, for the window.
        """
        self.config = config
        self.pattern, self.sample_rate_hz = config.pattern, config.sample_rate_hz
        self.padding = PADDING[config.normalise]
        self.log_mel = LogMel(config.sample_rate_hz, config.num_mels, config.hop, config.window)
        self._normalise, self._restore = NORMALISATIONS[config.normalise]

    @property
    def spec(self) -> SignalSpec:
        """Mel channels, the size of a training crop, and the levels."""
        return SignalSpec(
            channels=self.config.num_mels,
            size=(self.config.length,),
            domain=Levels(LEVELS),
            axes=("time",),
            sample_rate_hz=self.sample_rate_hz,
        )

    def protocol(self) -> dict[str, Any]:
        """All that a figure measured on these sounds depends on, as plain JSON values."""
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
        """The spectrogram of one sound in levels.

        Args:
            content: a file, its bytes, or samples as `read_sound` takes them.

        Raises:
            UnreadableItem: with the reason, when there is no such sound in it, or less than a frame of it.
        """
        samples = torch.from_numpy(self.config.read(content))
        if len(samples) < self.config.hop:
            raise UnreadableItem(
                f"too short: {len(samples)} samples, and a frame takes {self.config.hop} of them"
            )
        return self.to_stored(self.from_waveform(samples[None, None]))[0].numpy()

    def to_model(self, levels: UInt8[Tensor, "b m n"]) -> Float32[Tensor, "b m n"]:
        """Levels to [-1, 1]."""
        return from_levels(levels, LEVELS)

    def to_stored(self, signal: Float[Tensor, "b m n"]) -> UInt8[Tensor, "b m n"]:
        """[-1, 1] to the nearest level, clipped: the exact inverse of `to_model`."""
        return to_levels(signal.detach(), LEVELS).to(torch.uint8)

    def from_waveform(self, waveform: Float[Tensor, "b 1 t"]) -> Float[Tensor, "b m n"]:
        """Linear amplitude to the spectrogram in a model's range."""
        return self._normalise(self.log_mel(waveform))

    def waveform(self, signal: Float[Tensor, "b m n"]) -> Float[Tensor, "b 1 t"]:
        """About the sound of a spectrogram in a model's range, linear amplitude in [-1, 1].

        Phases are made up by Griffin-Lim, and after normalisation of each utterance the loudness and colour
        that it took away are those of typical speech: good enough to hear the words, not to judge quality.
        """
        sound = griffin_lim(self._restore(signal.detach().float().cpu()), self.log_mel)
        return sound.clamp(-1, 1)

    def seconds(self, length: int) -> float:
        """How long so many frames last."""
        return length * self.config.hop / self.config.sample_rate_hz

    def render(self, signal: Float[Tensor, "b m n"]) -> Float[Tensor, "b 1 t"]:
        """`waveform`: what a user wants of a sound."""
        return self.waveform(signal)

    def check(self, signal: Any) -> list[Float32[Tensor, "1 m _"]]:
        """What a user passes as sounds, as spectrograms in the range of a model, one by one.

        Spectrograms are brought to levels, as those of files are, so that both give the same.

        Args:
            signal: a file or its bytes, read as `decode` does; linear amplitude in [-1, 1] at the sample
                rate, a float tensor or array `(T,)`, `(1, T)` or `(B, 1, T)`; or a list of these.

        Raises:
            InputError: for another type, shape or range, less than a frame, or a file that is no sound.
        """
        sounds = waveforms(signal, self.config.read)
        shortest = min(sound.shape[-1] for sound in sounds)
        if shortest < self.config.hop:
            raise InputError(
                f"expected sounds of {self.config.hop} samples or more, one frame, received {shortest}: pad "
                "them with zeros"
            )
        return [self.to_model(self.to_stored(self.from_waveform(sound))) for sound in sounds]

    def preview(self, rows: Sequence[Any]) -> Image.Image:
        """Spectrograms: each of `rows[0]`, eight at most, with those of the other rows under it.

        Args:
            rows: batches `(B, M, N)`, or lists of `(M, N)`; levels or floats in [-1, 1].

        Raises:
            InputError: when there is nothing to show, or the rows differ in number.
        """
        channels = self.config.num_mels
        return spectrogram_figure(
            [[self._floats(signal) for signal in separate(row, channels)] for row in rows],
            self.config.hop / self.config.sample_rate_hz,
            self.log_mel.centres_hz,
            (-1.0, 1.0),
        )

    def save(self, signal: Tensor | np.ndarray, path: str | Path) -> None:
        """Write about the sound of one spectrogram, as `waveform` makes it, as WAV or FLAC.

        Args:
            signal: `(M, N)` or `(1, M, N)`, levels or floats in [-1, 1].
            path: of the file.

        Raises:
            InputError: when it is not one spectrogram, or the path ends otherwise.
        """
        sound = self.waveform(self._floats(only(signal, self.config.num_mels))[None])
        write_sound(sound[0, 0].numpy(), path, self.config.sample_rate_hz)

    def _floats(self, signal: Tensor) -> Float32[Tensor, "m n"]:
        """Levels or floats in a model's range."""
        return signal.float().clamp(-1, 1) if signal.is_floating_point() else self.to_model(signal[None])[0]
