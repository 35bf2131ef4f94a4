"""Judges of speech: small classifiers that are trained on real recordings, and never on a model's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from smalti.core.errors import InputError
from smalti.nn.spectral import LogMel

NUM_MELS = 40
STRIDES = (1, 2, 2)
LARGEST_SHIFT = 3
"""Mel bands by which training moves a spectrum, so that content is not inferred from a voice's formants."""


@final
class Recognizer(nn.Module):
    """Log-mels, each band normalised over the utterance, three convolutions, mean and deviation over time.

    Args:
        num_classes: what it tells apart.
        sample_rate_hz: of the waveforms.
        shifts_bands: whether training moves spectra up and down: for content, not for speakers.
        normalises: whether each band is normalised over the utterance: for content; a speaker's mean spectrum
            is part of who it is.
    """

    def __init__(self, num_classes: int, sample_rate_hz: int, shifts_bands: bool, normalises: bool) -> None:
        super().__init__()
        self.sample_rate_hz, self.shifts_bands, self.normalises = sample_rate_hz, shifts_bands, normalises
        hop = sample_rate_hz // 100
        self.front_end = LogMel(sample_rate_hz, NUM_MELS, hop=hop, n_fft=4 * hop)
        widths = (NUM_MELS, 96, 96, 96)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv1d(a, b, 5, stride, 2), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(0.2))
            for a, b, stride in zip(widths, widths[1:], STRIDES, strict=False)
        )
        self.logit = nn.Linear(2 * widths[-1], num_classes)

    def features(self, waveform: Float[np.ndarray, " t"]) -> Float[Tensor, "m n"]:
        """Log-mels of one utterance."""
        frames = self.front_end(torch.from_numpy(np.ascontiguousarray(waveform, np.float32))[None, None])[0]
        if not self.normalises:
            return frames - frames.mean()
        return (frames - frames.mean(1, keepdim=True)) / (frames.std(1, keepdim=True) + 0.1)

    def forward(self, frames: Float[Tensor, "b m n"], lengths: Int64[Tensor, " b"]) -> Float[Tensor, "b c"]:
        """Logits of utterances that are padded to one length."""
        x, inside = frames, torch.ones(())
        for layer, stride in zip(self.layers, STRIDES, strict=True):
            x = layer(x)
            lengths = (lengths + stride - 1) // stride
            # Zeros, as convolutions see beyond the end: padding is not heard.
            inside = (torch.arange(x.shape[2]) < lengths.unsqueeze(1)).unsqueeze(1)
            x = x * inside
        weight = inside / inside.sum(2, keepdim=True)
        mean = (x * weight).sum(2)
        variance = ((x - mean.unsqueeze(2)).square() * weight).sum(2)
        return self.logit(torch.cat([mean, (variance + 1e-4).sqrt()], 1))

    @torch.no_grad()
    def predict(self, waveforms: Sequence[Float[np.ndarray, " _"]]) -> Int64[np.ndarray, " n"]:
        """The class of each utterance."""
        self.eval()
        return np.array([self(*_batch([self.features(w)])).argmax(1).item() for w in waveforms], np.int64)


def train_recognizer(
    waveforms: Sequence[Float[np.ndarray, " _"]],
    labels: Int64[np.ndarray, " n"],
    sample_rate_hz: int,
    is_content: bool,
    steps: int = 1000,
    batch_size: int = 32,
    seed: int = 0,
) -> Recognizer:
    """Train a judge on real utterances.

    Args:
        waveforms: the utterances.
        labels: class of each, from 0.
        sample_rate_hz: of the waveforms.
        is_content: whether the classes are what is said, and not who says it.
        steps: of Adam, with a cosine schedule.
        batch_size: utterances a step.
        seed: of weights and batches.

    Raises:
        InputError: for fewer than two classes.
    """
    if len(set(labels.tolist())) < 2:
        raise InputError("expected at least two classes to tell apart, received one: give data with more")
    torch.manual_seed(seed)
    judge = Recognizer(int(labels.max()) + 1, sample_rate_hz, is_content, is_content)
    features = [judge.features(waveform) for waveform in waveforms]
    optimizer = torch.optim.Adam(judge.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(seed)
    judge.train()
    for _ in range(steps):
        chosen = rng.integers(len(features), size=batch_size)
        shift = int(rng.integers(-LARGEST_SHIFT, LARGEST_SHIFT + 1)) if judge.shifts_bands else 0
        frames, lengths = _batch([features[i] for i in chosen])
        loss = F.cross_entropy(
            judge(frames.roll(shift, 1), lengths), torch.from_numpy(labels[chosen]), label_smoothing=0.05
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


def _batch(features: Sequence[Tensor]) -> tuple[Float[Tensor, "b m n"], Int64[Tensor, " b"]]:
    lengths = torch.tensor([f.shape[1] for f in features])
    longest = max(8, int(lengths.max()))
    return torch.stack([F.pad(f, (0, longest - f.shape[1])) for f in features]), lengths
