"""A masked prior of your own (as MaskGIT, arXiv 2202.04200), used by name, in the folder of this file:
smalti train-prior RUN --plugin own_prior --name masked kind=in-rounds training.steps=2000
"""

import math
from typing import Literal

import torch
from torch import nn

import smalti


class OwnMaskedPrior(smalti.TrainablePrior):
    """Predicts hidden codes from visible ones; a grid is drawn in rounds, the most certain codes first."""

    def __init__(self, num_codes, shape, num_labels, config):
        super().__init__()
        self.num_codes, self.shape, self.grid, self.config = num_codes, shape, shape[1:], config
        self.condition_sizes, channels = {"label": num_labels} if num_labels else {}, config.channels
        self.positions = nn.Parameter(torch.randn(math.prod(self.shape), channels))
        self.codes = nn.Embedding(num_codes + 1, channels)  # the last one stands for a hidden code
        self.labels = nn.Embedding(num_labels + 1, channels)  # the last one, also -1, stands for no label
        layer = nn.TransformerEncoderLayer(channels, 2, 4 * channels, 0.0, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, config.layers), nn.Linear(channels, num_codes)

    def logits(self, codes, conditions):
        label = conditions.tensor("label") if conditions else None
        labels = self.labels.weight[-1:] if label is None else self.labels.weight[label]
        return self.head(self.body(self.codes(codes) + self.positions + labels.unsqueeze(1)))

    def loss(self, batch):
        codes = batch.data.long().flatten(1)
        share = torch.cos(torch.rand(len(codes), 1) * math.pi / 2)
        hidden = (torch.rand(codes.shape) < share).to(codes.device)
        logits = self.logits(codes.masked_fill(hidden, self.num_codes), batch.conditions)
        nats = nn.functional.cross_entropy(logits.transpose(1, 2), codes, reduction="none")
        return smalti.Loss((nats * hidden).sum() / hidden.sum().clamp(min=1), {})

    @torch.no_grad()
    def sample(self, num, conditions=None, temperature=1.0, top_k=None, top_p=None, generator=None):
        length, hidden = len(self.positions), self.num_codes
        codes = torch.full((num, length), hidden, device=self.positions.device)
        for part in torch.arange(1, self.config.rounds + 1) / self.config.rounds:
            logits = self.logits(codes, conditions)
            drawn = smalti.draw_codes(logits.flatten(0, 1), temperature, top_k, top_p, generator)
            drawn = drawn.view(num, length).where(codes == hidden, codes)
            certainty = logits.log_softmax(2).gather(2, drawn.unsqueeze(2)).squeeze(2)
            visible = length - int(length * math.cos(math.pi / 2 * part))
            best = certainty.masked_fill(codes != hidden, math.inf).topk(visible, 1).indices
            codes = codes.scatter(1, best, drawn.gather(1, best))
        return codes.view(num, *self.shape)


@smalti.PRIORS.register
class OwnMaskedPriorConfig(smalti.PriorConfig):
    kind: Literal["in-rounds"] = "in-rounds"
    channels: int = 64
    layers: int = 2
    rounds: int = 8

    def build(self, num_codes, num_codebooks, grid, conditions=None):
        num_labels = (conditions or {}).get("label", 0)
        return OwnMaskedPrior(num_codes, (num_codebooks, *grid), num_labels, self)
