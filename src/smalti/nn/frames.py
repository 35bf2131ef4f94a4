"""Short-time spectra as layers of a network: log-mel frames of waveforms, and waveforms from spectra.

What lies beyond the ends of a signal is zero, as in convolutions, so both have a bounded receptive field.
"""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from smalti.core.errors import InputError
from smalti.nn.spectral import FLOOR, mel_filters

MOST_LOG_MAGNITUDE = math.log(100.0)
"""Upper limit of the log-magnitudes of predicted spectra (Siuzdak 2023); that of a full-scale sine is 0."""


def check_frames(hop: int, window: int) -> None:
    """Check the sizes of overlapping frames.

    Raises:
        InputError: if the window is odd, or not at least two whole hops, so that Hann windows do not add up
            to a constant.
    """
    if hop < 1 or window < 2 * hop or window % hop or window % 2:
        raise InputError(
            f"expected an even window that is two or more times the hop, received a window of {window} "
            f"samples and a hop of {hop}: use a window of {4 * max(hop, 1)}"
        )


@final
class MelFrames(nn.Module):
    """Log-mel spectrogram `(B, 1, T)` -> `(B, M, T // hop)`.

    Natural logarithms of mel magnitudes, at least 1e-5, as `LogMel` has them, but without reflection at the
    ends. Frame i stands for samples `[i hop, (i + 1) hop)`.

    Args:
        sample_rate_hz: sample rate of the waveforms.
        num_mels: number M of channels, from 0 to half the sample rate.
        hop: distance between frames, samples.
        window: length of a frame, samples.
        causal: whether a frame depends on no sample after those that it stands for.

    Raises:
        InputError: if the window does not fit the hop, or the mel channels are too narrow for it.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self, sample_rate_hz: int, num_mels: int, hop: int, window: int, causal: bool = False
    ) -> None:
        super().__init__()
        check_frames(hop, window)
        self.stride, self.length = hop, window
        self.after = 0 if causal else (window - hop) // 2
        self.before = window - hop - self.after
        """Samples that a frame depends on, beside those that it stands for."""
        hann = torch.hann_window(window)
        self.register_buffer("window", hann / (hann.sum() / 2), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate_hz, window, num_mels)[0], persistent=False)

    def forward(self, waveform: Float[Tensor, "b 1 t"]) -> Float[Tensor, "b m n"]:
        """Compute the frames; the hop divides the length."""
        padded = F.pad(waveform[:, 0].float(), (self.before, self.after))
        frames = padded.unfold(-1, self.length, self.stride) * self.window
        magnitudes = torch.fft.rfft(frames).abs().transpose(1, 2)
        with torch.autocast(magnitudes.device.type, enabled=False):  # autocast would round the product
            return (self.filters @ magnitudes).clamp_min(FLOOR).log()


@final
class SpectraToWaveform(nn.Module):
    """Waveforms from log-magnitudes and phases: the head of Vocos (Siuzdak 2023, arXiv 2306.00814).

        `(B, W + 2, N)` -> `(B, 1, N hop)`

    The first W / 2 + 1 channels are log-magnitudes, 0 for a full-scale sine, and the others phases, in
    radians. Frames are multiplied by a Hann window and added, divided by the constant that overlapping
    windows add up to. Channels that are all 0, as beyond the ends of a signal, give silence: their frame is
    an impulse at its first sample, where the window is 0.

    Args:
        hop: distance between frames, samples.
        window: W, length of a frame, samples.
        causal: whether no sample depends on frames after its own.

    Raises:
        InputError: if the window does not fit the hop.
    """

    window: Tensor

    def __init__(self, hop: int, window: int, causal: bool = False) -> None:
        super().__init__()
        check_frames(hop, window)
        self.stride, self.length = hop, window
        self.cut = 0 if causal else (window - hop) // 2
        """Number of samples that are removed at the beginning."""
        # Windows at this distance add up to window / (2 hop); a sine of amplitude 1 has magnitude window / 2.
        self.register_buffer("window", hop * torch.hann_window(window), persistent=False)

    def forward(self, spectra: Float[Tensor, "b w n"]) -> Float[Tensor, "b 1 t"]:
        """Overlap and add the frames, in float32."""
        log_magnitudes, phases = spectra.float().chunk(2, 1)
        return self.added(torch.polar(log_magnitudes.clamp_max(MOST_LOG_MAGNITUDE).exp(), phases))

    def frames_of(self, waveform: Float[Tensor, "b t"]) -> Complex[Tensor, "b f n"]:
        """Spectra of the frames of a waveform, which `added` turns back into it, but for its ends.

        Args:
            waveform: the hop divides its length.
        """
        padded = F.pad(waveform, (self.cut, self.length - self.stride - self.cut))
        frames = torch.fft.rfft(padded.unfold(-1, self.length, self.stride), norm="forward")
        return 2 * frames.transpose(1, 2)

    def added(self, values: Complex[Tensor, "b f n"]) -> Float[Tensor, "b 1 t"]:
        """Overlap and add the frames with these spectra."""
        frames = torch.fft.irfft(values.transpose(1, 2), self.length) * self.window
        count = frames.shape[1]
        total = (count - 1) * self.stride + self.length
        added = F.fold(frames.transpose(1, 2), (1, total), (1, self.length), stride=(1, self.stride))
        return added[:, 0, :, self.cut : self.cut + count * self.stride]
