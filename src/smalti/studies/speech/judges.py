"""Classifiers (judges) of speaker and content, trained on real recordings and never on model output."""

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
"""Maximum shift in mel bands, an augmentation that keeps content classifiers from relying on formants."""


@final
class Recognizer(nn.Module):
    """Utterance classifier: log-mels, three convolutions, mean and standard deviation over time.

    Args:
        num_classes: number of classes.
        sample_rate_hz: sample rate of the waveforms.
        shifts_bands: whether training shifts spectra along the frequency axis; for content only.
        normalises: whether each band is normalised over the utterance; for content only, since the mean
            spectrum identifies a speaker.
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
        """Return the log-mels of one utterance."""
        frames = self.front_end(torch.from_numpy(np.ascontiguousarray(waveform, np.float32))[None, None])[0]
        if not self.normalises:
            return frames - frames.mean()
        return (frames - frames.mean(1, keepdim=True)) / (frames.std(1, keepdim=True) + 0.1)

    def forward(self, frames: Float[Tensor, "b m n"], lengths: Int64[Tensor, " b"]) -> Float[Tensor, "b c"]:
        """Return class logits.

        Args:
            frames: log-mels, padded to one length.
            lengths: number of frames of each utterance without padding.
        """
        x, inside = frames, torch.ones(())
        for layer, stride in zip(self.layers, STRIDES, strict=True):
            x = layer(x)
            lengths = (lengths + stride - 1) // stride
            # Same zeros as beyond the end of an unpadded utterance, so padding has no effect.
            inside = (torch.arange(x.shape[2]) < lengths.unsqueeze(1)).unsqueeze(1)
            x = x * inside
        weight = inside / inside.sum(2, keepdim=True)
        mean = (x * weight).sum(2)
        variance = ((x - mean.unsqueeze(2)).square() * weight).sum(2)
        return self.logit(torch.cat([mean, (variance + 1e-4).sqrt()], 1))

    @torch.no_grad()
    def predict(self, waveforms: Sequence[Float[np.ndarray, " _"]]) -> Int64[np.ndarray, " n"]:
        """Return the most probable class of each utterance."""
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
    """Train a classifier on real utterances.

    Args:
        waveforms: the utterances.
        labels: class index of each, from 0.
        sample_rate_hz: sample rate of the waveforms.
        is_content: True if the classes are spoken content, False if they are speakers.
        steps: number of Adam steps, with a cosine schedule.
        batch_size: utterances per step.
        seed: seed of weights and batches.

    Raises:
        InputError: for fewer than two classes.
    """
    if len(set(labels.tolist())) < 2:
        raise InputError("expected at least two classes to train a classifier, received one: add data")
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
