"""Waveform transforms: mu-law companding, the log-mel spectrogram and its approximate inverse.

Waveforms are float `(B, 1, T)` in [-1, 1].
"""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Complex64, Float
from torch import Tensor, nn

from smalti.core.errors import InputError

FLOOR = 1e-5
"""Lower limit of mel magnitudes: 100 dB below a full-scale sine, close to the noise of 16-bit audio."""

MU_LAW_LEVELS = 256
"""Number of levels of a mu-law waveform."""

FRAMES_AT_ONCE = 4096
"""Number of frames transformed at once, which bounds the memory for long recordings."""

BLOCK = 256
"""Number of frames of a block of fixed shape; see `LogMel.block`."""

FILTERS_AT_ONCE = 64
"""Number of mel filters computed at once in float64, which bounds the memory for long windows."""

SLANEY_KNEE_HZ = 1000.0
SLANEY_HZ_PER_MEL = 200 / 3
SLANEY_STEPS_PER_E = 27 / math.log(6.4)


def mu_law_encode(amplitude: Float[Tensor, "*any"], mu: float = 255.0) -> Float[Tensor, "*any"]:
    """Compand linear amplitudes x in [-1, 1] to sign(x) ln(1 + mu |x|) / ln(1 + mu), in [-1, 1].

    Source: ITU-T G.711.
    """
    return amplitude.sign() * torch.log1p(mu * amplitude.abs()) / math.log1p(mu)


def mu_law_decode(companded: Float[Tensor, "*any"], mu: float = 255.0) -> Float[Tensor, "*any"]:
    """Invert `mu_law_encode`: sign(y) ((1 + mu)^|y| - 1) / mu."""
    return companded.sign() * torch.expm1(companded.abs() * math.log1p(mu)) / mu


def mel_filters(
    sample_rate_hz: int, n_fft: int, num_mels: int
) -> tuple[Float[Tensor, "m f"], Float[Tensor, " m"]]:
    """Compute triangular mel filters over the frequencies of an FFT.

    The peaks are evenly spaced on Slaney's mel scale (linear below 1 kHz, logarithmic above) between 0 and
    half the sample rate; each triangle extends to the peaks of its neighbours and has height 1 (peak norm).

    Args:
        sample_rate_hz: sample rate of the waveforms.
        n_fft: window length, samples.
        num_mels: number M of filters.

    Returns:
        The filters, `(M, n_fft // 2 + 1)`, and the frequencies of their peaks, Hz, `(M,)`.

    Raises:
        InputError: if a filter is so narrow that it contains no frequency of the FFT.
    """
    edges = _mel_to_hz(torch.linspace(0, _hz_to_mel(sample_rate_hz / 2), num_mels + 2, dtype=torch.float64))
    frequencies = torch.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1, dtype=torch.float64)
    filters = torch.cat(
        [
            _triangles(edges[first : first + FILTERS_AT_ONCE + 2], frequencies).float()
            for first in range(0, max(num_mels, 1), FILTERS_AT_ONCE)
        ]
    )
    # On the meta device, filters have no values.
    empty = 0 if filters.is_meta else int((filters.amax(1) == 0).sum())
    if empty:
        raise InputError(
            f"expected mel channels wider than {sample_rate_hz / n_fft:.3g} Hz, the resolution of a window "
            f"of {n_fft} samples, but {empty} of the {num_mels} channels are narrower: use fewer channels or "
            "a longer window"
        )
    return filters, edges[1:-1].float()


def _triangles(edges: Float[Tensor, " m2"], frequencies: Float[Tensor, " f"]) -> Float[Tensor, "m f"]:
    """Triangles of height 1 between successive edges but one, with their peaks at the edge between."""
    lower, centres, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequencies - lower) / (centres - lower)
    falling = (upper - frequencies) / (upper - centres)
    return torch.minimum(rising, falling).clamp_min(0)


@final
class ShortTimeFourier(nn.Module):
    """Short-time Fourier transform with a Hann window, and its inverse.

    Frame i is centred on sample i*hop + hop/2 (half a sample later for an odd window), so T samples have
    T // hop frames, each centred on its own hop. The signal is reflected at its ends, repeatedly if it is
    shorter than a window. A sine of amplitude 1 has magnitude 1.

    Args:
        hop: distance between frames, samples.
        n_fft: window length, samples.

    Raises:
        InputError: if the hop is longer than the window, or the window is shorter than 2 samples.
    """

    def __init__(self, hop: int, n_fft: int) -> None:
        super().__init__()
        if not 1 <= hop <= n_fft or n_fft < 2:
            raise InputError(
                "expected a hop from 1 sample to the window length, and a window of at least 2 samples, "
                f"received a hop of {hop} and a window of {n_fft}: use a shorter hop or a longer window"
            )
        self.hop, self.n_fft = hop, n_fft
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / (window.sum() / 2), persistent=False)

    window: Tensor

    def forward(self, waveform: Float[Tensor, "b 1 t"]) -> Complex64[Tensor, "b f n"]:
        """Compute the spectra of all frames, `(B, n_fft // 2 + 1, T // hop)`."""
        return self.block(waveform, 0, waveform.shape[-1] // self.hop)

    def block(self, waveform: Float[Tensor, "b 1 t"], first: int, last: int) -> Complex64[Tensor, "b f n"]:
        """Compute the spectra of frames `first` to `last - 1`."""
        if last == first:
            return self.window.new_zeros(len(waveform), self.n_fft // 2 + 1, 0, dtype=torch.complex64)
        return torch.fft.rfft(self.frames(waveform, first, last)).transpose(1, 2)

    def frames(
        self, waveform: Float[Tensor, "b 1 t"], first: int, last: int, begin: int = 0
    ) -> Float[Tensor, "b n w"]:
        """Cut frames `first` to `last - 1`, at least one, multiplied by the window.

        Args:
            waveform: the signal from sample `begin` to its end.
            first: number of the first frame.
            last: number after that of the last frame.
            begin: first sample that is given.
        """
        start = first * self.hop - self.lead
        stop = start + (last - first - 1) * self.hop + self.n_fft
        indices = _reflected(start, stop, begin + waveform.shape[-1]).to(waveform.device) - begin
        return waveform[:, 0, indices].float().unfold(-1, self.n_fft, self.hop) * self.window

    def inverse(self, spectra: Complex64[Tensor, "b f n"]) -> Float[Tensor, "b 1 t"]:
        """Compute the n * hop samples with the closest spectra (Griffin and Lim 1984, equation 6)."""
        count = spectra.shape[-1]
        if count == 0:
            return self.window.new_zeros(len(spectra), 1, 0)
        frames = torch.fft.irfft(spectra.transpose(1, 2), self.n_fft) * self.window
        weights = self.window.square().expand(1, count, -1)
        overlapped, weight = self._overlap(frames), self._overlap(weights)
        return (overlapped / weight.clamp_min(1e-6 * float(weights.amax())))[:, None]

    def _overlap(self, frames: Float[Tensor, "b n w"]) -> Float[Tensor, "b t"]:
        """Overlap-add frames at their positions, and cut the result to the signal."""
        count = frames.shape[1]
        total = (count - 1) * self.hop + self.n_fft
        added = F.fold(frames.transpose(1, 2), (1, total), (1, self.n_fft), stride=(1, self.hop))
        return added[:, 0, 0, self.lead : self.lead + count * self.hop]

    @property
    def lead(self) -> int:
        """Number of samples of the first window before the start of the signal."""
        return self.n_fft // 2 - self.hop // 2


@final
class LogMel(nn.Module):
    """Log-mel spectrogram: waveform `(B, 1, T)` -> natural log of mel magnitudes `(B, M, T // hop)`.

    The filters (Slaney's mel scale, peak norm) apply to magnitudes, not powers. A full-scale sine is near 0,
    silence is ln(1e-5).

    Args:
        sample_rate_hz: sample rate of the waveforms.
        num_mels: number M of channels, from 0 to half the sample rate.
        hop: distance between frames, samples; frame i is centred on sample i*hop + hop/2.
        n_fft: window length, samples.

    Raises:
        InputError: if the channels are too narrow for the window, or the hop is longer than the window.
    """

    def __init__(self, sample_rate_hz: int, num_mels: int = 80, hop: int = 160, n_fft: int = 400) -> None:
        super().__init__()
        self.sample_rate_hz, self.num_mels, self.hop, self.n_fft = sample_rate_hz, num_mels, hop, n_fft
        self.fourier = ShortTimeFourier(hop, n_fft)
        filters, centres_hz = mel_filters(sample_rate_hz, n_fft, num_mels)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("centres_hz", centres_hz, persistent=False)

    filters: Tensor
    centres_hz: Tensor

    def forward(self, waveform: Float[Tensor, "b 1 t"]) -> Float[Tensor, "b m n"]:
        """Compute ln(max(mel magnitude, 1e-5)) of every frame."""
        frames = waveform.shape[-1] // self.hop
        # Without frames, there is one empty block with the right number of channels.
        starts = range(0, max(frames, 1), FRAMES_AT_ONCE)
        return torch.cat(
            [self._block(waveform, first, min(first + FRAMES_AT_ONCE, frames)) for first in starts], -1
        )

    def block(
        self, waveform: Float[Tensor, "1 1 t"], number: int, until: int, begin: int = 0
    ) -> Float[Tensor, "1 m n"]:
        """Compute the frames of one block of `BLOCK` frames, up to frame `until - 1`.

        The shape of the computation is always that of a whole block, so that a frame has the same value, to
        the bit, whatever is known of the signal after it.

        Args:
            waveform: the signal from sample `begin` to its end.
            number: of the block.
            until: number after that of the last frame.
            begin: first sample that is given.
        """
        first = number * BLOCK
        frames = self.fourier.frames(waveform, first, min(first + BLOCK, until), begin)
        whole = F.pad(frames, (0, 0, 0, BLOCK - frames.shape[1]))
        return self._of_spectra(torch.fft.rfft(whole).transpose(1, 2))[..., : frames.shape[1]]

    def _block(self, waveform: Float[Tensor, "b 1 t"], first: int, last: int) -> Float[Tensor, "b m n"]:
        return self._of_spectra(self.fourier.block(waveform, first, last))

    def _of_spectra(self, spectra: Complex64[Tensor, "b f n"]) -> Float[Tensor, "b m n"]:
        magnitudes = spectra.abs()
        with torch.autocast(magnitudes.device.type, enabled=False):  # autocast would round the product
            return (self.filters @ magnitudes).clamp_min(FLOOR).log()


@torch.no_grad()
def griffin_lim(
    log_mel: Float[Tensor, "b m n"],
    transform: LogMel,
    iterations: int = 32,
    momentum: float = 0.99,
    seed: int = 0,
) -> Float[Tensor, "b 1 t"]:
    """Estimate a waveform from its log-mel spectrogram.

    The pseudo-inverse of the filters maps mel magnitudes to linear ones, clipped at 0. The fast Griffin-Lim
    algorithm estimates the phases (Perraudin et al. 2013, algorithm 2).

    Args:
        log_mel: output of `transform`.
        transform: the transform that computed it.
        iterations: number of projections; more reduce artefacts, up to about a hundred.
        momentum: the paper's alpha; 0 gives the algorithm of Griffin and Lim (1984).
        seed: seed of the initial phases.

    Returns:
        `(B, 1, N * hop)`, not clipped to [-1, 1].
    """
    fourier = transform.fourier
    magnitudes = (torch.linalg.pinv(transform.filters) @ log_mel.float().exp()).clamp_min(0)
    turns = torch.rand(magnitudes.shape, generator=torch.Generator().manual_seed(seed)).to(magnitudes.device)
    phases = torch.polar(torch.ones_like(magnitudes), 2 * math.pi * turns)
    previous = torch.zeros_like(phases)
    for _ in range(iterations):
        consistent = fourier(fourier.inverse(magnitudes * phases))
        ahead = consistent + momentum * (consistent - previous)
        phases = ahead / ahead.abs().clamp_min(1e-12)
        previous = consistent
    return fourier.inverse(magnitudes * phases)


def _reflected(start: int, stop: int, length: int) -> Tensor:
    """Map positions `start` to `stop - 1` to indices of a signal of this length, mirrored at both ends."""
    period = max(1, 2 * (length - 1))
    positions = torch.arange(start, stop) % period
    return torch.minimum(positions, period - positions)


def _hz_to_mel(hz: float) -> float:
    if hz < SLANEY_KNEE_HZ:
        return hz / SLANEY_HZ_PER_MEL
    return SLANEY_KNEE_HZ / SLANEY_HZ_PER_MEL + SLANEY_STEPS_PER_E * math.log(hz / SLANEY_KNEE_HZ)


def _mel_to_hz(mel: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    knee = SLANEY_KNEE_HZ / SLANEY_HZ_PER_MEL
    logarithmic = SLANEY_KNEE_HZ * torch.exp((mel - knee).clamp_min(0) / SLANEY_STEPS_PER_E)
    return torch.where(mel < knee, mel * SLANEY_HZ_PER_MEL, logarithmic)
