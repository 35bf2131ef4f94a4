"""Tiny runs on pictures of letters: sound ones, and ones that are spoiled on purpose."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smalti.app.letters import LettersSource
from smalti.core.conditions import Batch
from smalti.core.parts import QuantizerConfig
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.evaluation.diagnosis.measurements import Measurements, measure_codebooks
from smalti.evaluation.diagnosis.rules import find_faults
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.models.vqvae import VQVAEConfig

SIZE, BATCH = 16, 16
SETTING = re.compile(r"\b(?:model|training)\.[\w.]+=\w[\w.]*")
"""A setting in the text of an advice."""
WIDTH: dict[str, Any] = {"channels": 12, "residual_channels": 8, "residual_blocks": 1}


@dataclass(frozen=True)
class Spoiled:
    """Settings of a run."""

    quantizer: QuantizerConfig
    steps: int = 150
    learning_rate: float = 3e-3
    num_items: int = 256
    schedule: str = "cosine"
    seed: int = field(default=0)


@functools.cache
def letters(num: int, split: str) -> Tensor:
    """Pictures of letters, scaled to [-1, 1]."""
    source = LettersSource(num_train=256, num_test=64, image_size=SIZE)
    pictures = np.stack([np.asarray(source.item(split, index).content) for index in range(num)])
    return torch.from_numpy(pictures).movedim(3, 1) / 127.5 - 1


def measured(run: Spoiled) -> Measurements:
    """Train, and measure with the items of the training and with held-out fonts."""
    torch.manual_seed(run.seed)
    model = VQVAEConfig(
        encoder=ConvEncoderConfig(**WIDTH, strides=(2, 2)),
        decoder=ConvDecoderConfig(**WIDTH),
        quantizer=run.quantizer,
        likelihood=GaussianConfig(),
    ).build(SignalSpec(channels=3, size=(SIZE, SIZE), levels=256))
    items = letters(256, "train")[: run.num_items]
    optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate)
    metrics = []
    for step in range(run.steps):
        if run.schedule == "cosine":
            rate = run.learning_rate * 0.5 * (1 + math.cos(math.pi * step / run.steps))
            optimizer.param_groups[0]["lr"] = rate
        loss = model.loss(Batch(items[torch.randint(len(items), (BATCH,))]))
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        metrics.append({"step": step + 1, "split": "train", "loss": loss.total.item()})
    held_out = [Batch(part) for part in letters(64, "test").split(64)]
    return measure_codebooks(model, [Batch(part) for part in items.split(64)], held_out, len(items), metrics)


def faults(run: Spoiled) -> list[str]:
    """Names of the faults that are found, worst first."""
    return [finding.name for finding in find_faults(measured(run))]
