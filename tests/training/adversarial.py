"""A tiny model of two phases: an autoencoder, and a discriminator that joins in later."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.core.conditions import Batch
from smalti.core.models import Trainable
from smalti.core.phases import Phase
from smalti.core.results import Loss
from smalti.nn.collectives import randn_over_ranks

EVERY, START, SCALE, BETAS = 2, 5, 0.5, (0.3, 0.7)
"""Of the discriminator's phase."""


class Adversarial(Trainable):
    """Minimises a squared error, and once the discriminator has begun, also what it finds wrong.

    Args:
        size: numbers in each item.
        has_noise: whether latents get noise, drawn for the batch of all ranks.
    """

    def __init__(self, size: int = 64, has_noise: bool = True) -> None:
        super().__init__()
        self.has_noise = has_noise
        self.generator = nn.Sequential(nn.Linear(size, 4), nn.Tanh(), nn.Linear(4, size))
        self.discriminator = nn.Sequential(nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, 1))
        self.unused = nn.Parameter(torch.ones(3))
        """In no phase, so that it stays as it is."""
        self._generated: Tensor | None = None

    def phases(self) -> Sequence[Phase]:
        return (
            Phase("generator", tuple(self.generator.parameters()), self.loss),
            Phase(
                "discriminator",
                tuple(self.discriminator.parameters()),
                self.discriminator_loss,
                every=EVERY,
                start=START,
                learning_rate_scale=SCALE,
                betas=BETAS,
            ),
        )

    def loss(self, batch: Batch) -> Loss:
        x = batch.data.flatten(1)
        noise = 0.1 * randn_over_ranks(x.shape, x.device) if self.has_noise else 0
        generated = self.generator(x + noise) + self.unused.sum() - 3
        self._generated = generated.detach()
        error = F.mse_loss(generated, x)
        if self.trained_steps < START:
            return Loss(error, {"error": error.detach()})
        fooled = F.softplus(-self.discriminator(generated)).mean()
        return Loss(error + 0.1 * fooled, {"error": error.detach(), "fooled": fooled.detach()})

    def discriminator_loss(self, batch: Batch) -> Loss:
        assert self._generated is not None
        real = F.softplus(-self.discriminator(batch.data.flatten(1))).mean()
        fake = F.softplus(self.discriminator(self._generated)).mean()
        return Loss(real + fake, {"real": real.detach(), "fake": fake.detach()})
