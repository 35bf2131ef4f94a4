"""The audio modality: waveforms of any length, in 256 mu-law levels or 65,536 linear (16-bit) levels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int, Integer
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor

from smalti.core.modality import MODALITIES, Modality
from smalti.core.signals import Levels, SignalSpec
from smalti.core.streaming import ElementwiseStream
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.modalities.audio.sounds import EXTENSIONS, sound_notes, write_sound, write_sound_blocks
from smalti.modalities.audio.waveforms import SoundConfig, only, separate, spectrogram_figure, waveforms
from smalti.nn.spectral import LogMel, mu_law_decode, mu_law_encode

PREVIEW_WINDOW_S = 0.025
PREVIEW_MELS = 80


@MODALITIES.register
class AudioConfig(SoundConfig):
    """Settings of `AudioModality`.

    Attributes:
        length: samples per training crop.
        encoding: "mu_law" for 256 levels, spaced more closely at low amplitudes (ITU-T G.711, mu = 255);
            "linear" for 65,536 levels, which represent 16-bit files exactly.
    """

    signal_fields: ClassVar[tuple[str, ...]] = ("sample_rate_hz", "encoding")

    kind: Literal["audio"] = "audio"
    length: PositiveInt = 8192
    encoding: Literal["mu_law", "linear"] = "mu_law"

    @classmethod
    def tiny(cls) -> AudioConfig:
        """Return the smallest useful settings, for tests."""
        return cls(sample_rate_hz=4000, length=64)

    def build(self) -> AudioModality:
        """Build the modality."""
        return AudioModality(self)


class _Encoding(ABC):
    """Conversions between linear amplitude, the model's range and levels. Both ranges are [-1, 1]."""

    levels: int

    @abstractmethod
    def encode(self, amplitude: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Convert linear amplitude to the model's range."""

    @abstractmethod
    def decode(self, signal: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Convert the model's range to linear amplitude: the inverse of `encode`."""

    @abstractmethod
    def quantize(self, amplitude: Float[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        """Return the level of each sample of linear amplitude."""

    @abstractmethod
    def samples(self, signal: Float[Tensor, " t"]) -> np.ndarray:
        """Convert a signal in the model's range to the samples that `write_sound` expects."""


@final
class _MuLaw(_Encoding):
    levels = 256

    def encode(self, amplitude: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return mu_law_encode(amplitude)

    def decode(self, signal: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return mu_law_decode(signal)

    def quantize(self, amplitude: Float[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        return to_levels(mu_law_encode(amplitude), self.levels)

    def samples(self, signal: Float[Tensor, " t"]) -> np.ndarray:
        return mu_law_decode(signal).numpy()


@final
class _Linear(_Encoding):
    levels = 65536

    def encode(self, amplitude: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return amplitude

    def decode(self, signal: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return signal

    def quantize(self, amplitude: Float[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        # 16-bit samples s lie at s / 32768 and levels k at 2k / 65535 - 1. Rounding to the nearest would
        # merge two samples near 0; instead, each sample s gets its own level s + 32768.
        return (torch.floor(amplitude * 32768).long() + 32768).clamp(0, self.levels - 1)

    def samples(self, signal: Float[Tensor, " t"]) -> np.ndarray:
        return (to_levels(signal, self.levels) - 32768).to(torch.int16).numpy()


ENCODINGS: dict[str, _Encoding] = {"mu_law": _MuLaw(), "linear": _Linear()}


@final
class AudioModality(Modality):
    """Waveforms `(B, 1, T)` in 256 or 65,536 levels, which a model sees in [-1, 1].

    The model's range is companded amplitude for the mu-law encoding and amplitude for the linear one.
    """

    extensions = EXTENSIONS
    ending = ".wav"
    plural_name = "sounds"
    is_ragged = True

    def __init__(self, config: AudioConfig) -> None:
        self.config = config
        self.pattern, self.sample_rate_hz = config.pattern, config.sample_rate_hz
        self._encoding = ENCODINGS[config.encoding]
        self.padding = int(self._encoding.quantize(torch.zeros(())))

    @property
    def spec(self) -> SignalSpec:
        """One channel, the length of a training crop, and the levels."""
        return SignalSpec(
            channels=1,
            size=(self.config.length,),
            domain=Levels(self._encoding.levels),
            axes=("time",),
            sample_rate_hz=self.config.sample_rate_hz,
        )

    def protocol(self) -> dict[str, Any]:
        """Return every setting that affects measurements on these sounds, as plain JSON values."""
        return {
            **self.config.reading(),
            "encoding": self.config.encoding,
            "range": [-1.0, 1.0],
            "levels": self._encoding.levels,
        }

    def decode(self, content: Path | bytes | np.ndarray) -> Integer[np.ndarray, "1 t"]:
        """Read one sound as levels: uint8 for mu-law, int32 for linear.

        Args:
            content: a file, its bytes, or samples, as for `read_sound`.

        Raises:
            UnreadableItem: with the reason, if the sound cannot be read.
        """
        samples = torch.from_numpy(self.config.read(content))
        levels = self._encoding.quantize(samples)[None].numpy()
        return levels.astype(self.spec.domain.dtype)

    def to_model(self, levels: Integer[Tensor, "b 1 t"]) -> Float32[Tensor, "b 1 t"]:
        """Convert levels to [-1, 1]."""
        return from_levels(levels, self._encoding.levels)

    def to_stored(self, signal: Float[Tensor, "b 1 t"]) -> Integer[Tensor, "b 1 t"]:
        """Convert [-1, 1] to the nearest level, clipped: the exact inverse of `to_model`."""
        levels = to_levels(signal.detach(), self._encoding.levels)
        return levels.to(getattr(torch, self.spec.domain.dtype.name))

    def waveform(self, signal: Float[Tensor, "b 1 t"]) -> Float[Tensor, "b 1 t"]:
        """Convert the model's range to linear amplitude, both [-1, 1]."""
        return self._encoding.decode(signal)

    def from_waveform(self, waveform: Float[Tensor, "b 1 t"]) -> Float[Tensor, "b 1 t"]:
        """Convert linear amplitude to the model's range, both [-1, 1]: the inverse of `waveform`."""
        return self._encoding.encode(waveform)

    def seconds(self, length: int) -> float:
        """Return the duration of `length` samples, in seconds."""
        return length / self.config.sample_rate_hz

    def warnings(self, item: Integer[np.ndarray, "1 t"]) -> list[str]:
        """Return a warning if a sound is silent or clipped."""
        signal = self.to_model(torch.from_numpy(np.ascontiguousarray(item))[None])
        return sound_notes(self.waveform(signal)[0, 0].numpy())

    def render(self, signal: Float[Tensor, "b 1 t"]) -> Float[Tensor, "b 1 t"]:
        """Convert a signal in the model's range to linear amplitude in [-1, 1], for output."""
        return self.waveform(signal.detach().float().clamp(-1, 1))

    def check(self, signal: Any) -> list[Float32[Tensor, "1 1 _"]]:
        """Validate user input and convert it to the model's range, one tensor per sound.

        Samples are quantized to levels, so that a tensor gives the same signal as a file of its samples.

        Args:
            signal: a file or its bytes, read by `decode`; linear amplitude in [-1, 1] at the sample rate, as
                a float tensor or array `(T,)`, `(1, T)` or `(B, 1, T)`; or a list of these.

        Raises:
            InputError: for another type, shape or range, for no samples, or for an unreadable file.
        """
        return [
            self.to_model(self._encoding.quantize(sound)) for sound in waveforms(signal, self.config.read)
        ]

    def stream(self) -> ElementwiseStream:
        """Return a converter of blocks of linear amplitude, as for `check`."""
        return ElementwiseStream(self.check, self.plural_name)

    def blocks(self, content: Any) -> Iterator[Float32[np.ndarray, " t"]] | None:
        """Read a long file block by block; None for any other content.

        Raises:
            UnreadableItem: with the reason, if the sound cannot be read; the iterator raises it, too.
        """
        return self.config.blocks(content)

    def preview(self, rows: Sequence[Any]) -> Image.Image:
        """Plot log-mel spectrograms: one row per element of `rows`, one column per sound, at most eight.

        Args:
            rows: batches `(B, 1, T)`, or lists of `(1, T)`; levels, or floats in the model's range.

        Raises:
            InputError: if the rows are empty or differ in length.
        """
        rate_hz = self.config.sample_rate_hz
        n_fft = 2 ** math.ceil(math.log2(PREVIEW_WINDOW_S * rate_hz))
        log_mel = LogMel(rate_hz, min(PREVIEW_MELS, n_fft // 8), n_fft // 4, n_fft)

        def spectrogram(signal: Tensor) -> Tensor:
            sound = self.waveform(self._floats(signal)[None])
            return log_mel(F.pad(sound, (0, max(0, log_mel.hop - sound.shape[-1]))))[0]

        return spectrogram_figure(
            [[spectrogram(signal) for signal in separate(row, 1)] for row in rows],
            log_mel.hop / rate_hz,
            log_mel.centres_hz,
        )

    def save(self, signal: Tensor | np.ndarray, path: str | Path) -> None:
        """Write one sound as WAV or FLAC, by the extension of the path.

        Args:
            signal: `(1, T)` or `(1, 1, T)`; levels, or floats in the model's range.
            path: path of the file.

        Raises:
            InputError: if the signal is not one sound, or the path has another extension.
        """
        samples = self._encoding.samples(self._floats(only(signal, 1))[0])
        write_sound(samples, path, self.config.sample_rate_hz)

    def save_blocks(self, blocks: Iterable[Float[Tensor, "1 1 _"]], path: str | Path) -> None:
        """Write one sound, given block by block in the model's range, in bounded memory; see `save`."""
        samples = (self._encoding.samples(self._floats(only(block, 1))[0]) for block in blocks)
        write_sound_blocks(samples, path, self.config.sample_rate_hz)

    def _floats(self, signal: Tensor) -> Float32[Tensor, "1 t"]:
        """Convert levels or floats `(1, T)` to the model's range."""
        return signal.float().clamp(-1, 1) if signal.is_floating_point() else self.to_model(signal[None])[0]
