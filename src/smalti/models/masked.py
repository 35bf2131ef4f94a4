"""Self-supervised pre-training of a speech encoder by masked prediction of cepstral clusters.

Spans of an utterance are masked, and the network predicts from the context which cluster of cepstra each
masked frame belongs to (Hsu et al. 2021, arXiv 2106.07447). The features that solve this task identify
phones.
"""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Batch
from smalti.core.config import Configuration
from smalti.core.models import Trainable
from smalti.core.results import Loss
from smalti.core.signals import SignalSpec
from smalti.encoders.context import ContextEncoderConfig, ContextNetwork
from smalti.encoders.voice import VoiceFinder, speech_positions, warped
from smalti.nn.collectives import mean_over_ranks, rand_over_ranks, randn_over_ranks
from smalti.quantizers.kmeans import kmeans
from smalti.quantizers.nearest import nearest_codes


class MaskedPredictionConfig(Configuration):
    """Settings of masked prediction.

    Attributes:
        num_clusters: number of clusters of cepstra.
        clusterings: number of k-means runs with different seeds, each predicted by its own head.
        mask_share: share of the positions at which a masked span begins.
        mask_length: length of a masked span, in positions.
        seen_weight: loss weight of positions that are not masked.
        silence_weight: loss weight of positions without speech.
        warp: maximum relative change of the frequency axis in training, an augmentation over voices.
        tilt: standard deviation of a random smooth curve over the bands, added in training, in standard
            deviations of a band.
    """

    num_clusters: int = Field(default=128, ge=2)
    clusterings: int = Field(default=3, ge=1)
    mask_share: float = Field(default=0.08, ge=0, lt=1)
    mask_length: int = Field(default=5, ge=1)
    seen_weight: float = Field(default=0.3, ge=0)
    silence_weight: float = Field(default=0.1, ge=0)
    warp: float = Field(default=0.06, ge=0, lt=0.2)
    tilt: float = Field(default=0.3, ge=0)

    @classmethod
    def tiny(cls) -> MaskedPredictionConfig:
        """The smallest config with every part, for tests."""
        return cls(num_clusters=4, clusterings=2)


@final
class MaskedPrediction(Trainable):
    """Masked prediction by a `ContextNetwork`, with one head per clustering.

    Args:
        config: settings of the task.
        encoder: size of the network.
        signal: log-mels: bands as channels, frames as the single axis.
    """

    centres: Tensor
    """Cluster centres, `(S, K, D)`; see `cluster`."""

    def __init__(
        self, config: MaskedPredictionConfig, encoder: ContextEncoderConfig, signal: SignalSpec
    ) -> None:
        super().__init__()
        self.config = config
        self.stride = math.prod(encoder.strides)
        self.network = ContextNetwork(encoder, signal.channels)
        self.heads = nn.Conv1d(encoder.channels, config.clusterings * config.num_clusters, 1)
        self.voice = VoiceFinder(encoder.voice, signal, self.stride)
        dim = self.voice.reference.shape[1]
        self.register_buffer("centres", torch.zeros(config.clusterings, config.num_clusters, dim))

    @torch.no_grad()
    def cluster(self, cepstra: Float[Tensor, "n d"], seed: int = 0) -> None:
        """Fit the clusters, which are the prediction targets, to the cepstra of speech."""
        for index in range(self.config.clusterings):
            self.centres[index] = kmeans(cepstra, self.config.num_clusters, seed + index, iterations=20)

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of the clusters in nats, weighted towards masked positions."""
        signal = batch.data
        voices = batch.conditions.tensor("voice")
        clean = self.voice.normalised(signal, self.voice.voices(signal) if voices is None else voices)
        speech = speech_positions(signal, self.stride)
        flat = self.voice.cepstra(clean).flatten(0, 1)
        targets = torch.stack([nearest_codes(flat, centres) for centres in self.centres], 1)
        hidden, frames = self._augmented(clean, speech.shape[1])
        logits = self.heads(self.network(frames, hidden if self.training else None))
        logits = logits.unflatten(1, (self.config.clusterings, -1)).permute(0, 3, 1, 2)
        nats = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none")
        nats = nats.view(*speech.shape, -1).mean(2)
        weight = torch.where(hidden, 1.0, self.config.seen_weight)
        weight = weight * torch.where(speech, 1.0, self.config.silence_weight)
        # In training, ranks have different numbers of masked positions and of silence.
        weights = mean_over_ranks(weight.sum()) if self.training else weight.sum()
        total = (nats * weight).sum() / weights
        return Loss(total, {"cluster_nats": (nats * speech).sum().detach() / speech.sum().clamp_min(1)})

    def _augmented(
        self, frames: Float[Tensor, "b m t"], num: int
    ) -> tuple[Bool[Tensor, "b n"], Float[Tensor, "b m t"]]:
        """Draw the masked positions and augment the frames as another voice and microphone, for all ranks."""
        batch_size, num_mels, _ = frames.shape
        if not self.training:
            return torch.zeros(batch_size, num, dtype=torch.bool, device=frames.device), frames
        device = frames.device
        begins = rand_over_ranks((batch_size, num), device) < self.config.mask_share
        widths = F.pad(begins.float().unsqueeze(1), (self.config.mask_length - 1, 0))
        hidden = F.max_pool1d(widths, self.config.mask_length, 1).squeeze(1) > 0
        factors = 1 + self.config.warp * (2 * rand_over_ranks((batch_size,), device) - 1)
        curves = randn_over_ranks((batch_size, 1, 6), device)
        tilt = F.interpolate(curves, num_mels, mode="linear").transpose(1, 2)
        return hidden, warped(frames, factors, self.voice.top_hz) + self.config.tilt * tilt
