"""Random Gaussian vectors, and the settings of a training on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from smalti.app.recipes.training import short_cosine
from smalti.core.conditions import Batch
from smalti.core.config import Configuration
from smalti.studies.quantizers.bounds import gauss_markov_covariance
from smalti.training.loop import TrainingConfig

GAUSSIAN = "gaussian"
"""Name of the source on the command line."""
TRAINING, COUNTED, VALIDATION, TEST = range(4)
"""Streams of random vectors."""


class GaussianConfig(Configuration):
    """Settings of the source, and of the training on it.

    Attributes:
        dimension: number of components of a vector.
        correlation: of neighbouring components; 0 for independent ones.
        num_test: number of vectors that are measured.
        num_counted: number of vectors whose codes are counted, and which k-means clusters.
        channels: of the latents, for quantizers that can have any number.
        hidden: units of each hidden layer of the networks.
        training: settings of the training loop.
    """

    dimension: int = Field(default=4, ge=1, le=1024)
    correlation: float = Field(default=0.0, ge=0, lt=1)
    num_test: int = Field(default=16_384, ge=1)
    num_counted: int = Field(default=65_536, ge=1)
    channels: int = Field(default=8, ge=1, le=1024)
    hidden: int = Field(default=64, ge=1, le=4096)
    training: TrainingConfig = short_cosine(steps=2000, batch_size=256, learning_rate=1e-2, weight_ema=0.0)


@final
class Vectors:
    """Gaussian vectors of unit variance; batch i of a stream depends on the stream and i only.

    Args:
        source: dimension and correlation.
    """

    def __init__(self, source: GaussianConfig) -> None:
        self.covariance = gauss_markov_covariance(source.dimension, source.correlation)
        self._root = torch.from_numpy(np.linalg.cholesky(self.covariance)).float()

    def draw(self, num: int, stream: int, seed: int = 0, step: int = 0) -> Float[Tensor, "b n 1"]:
        """Draw vectors.

        Args:
            num: number of vectors.
            stream: `TRAINING`, `COUNTED`, `VALIDATION` or `TEST`.
            seed: of the run, for training vectors.
            step: of the training.
        """
        rng = np.random.default_rng((stream, seed, step))
        normal = torch.from_numpy(rng.standard_normal((num, len(self._root)), dtype=np.float32))
        return (normal @ self._root.T).unsqueeze(2)


def batches(vectors: Vectors, training: TrainingConfig, to: torch.device) -> Callable[[int, int, int], Batch]:
    """Batches of training vectors, by step."""

    def batch(step: int, rank: int, world: int) -> Batch:
        drawn = vectors.draw(training.batch_size, TRAINING, training.seed, step)
        return Batch(drawn.chunk(world)[rank].to(to))

    return batch
