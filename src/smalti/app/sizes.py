"""Compare the least memory of a training with that of the machine, before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from smalti.core.building import TooLarge, in_gb, memory_bytes, plan, size_bytes
from smalti.core.models import Autoencoder
from smalti.core.signals import SignalSpec
from smalti.training.loop import TrainingConfig

M = TypeVar("M", bound=nn.Module)

COPIES = 4
"""Copies of the weights in training: the weights, their gradient and two moments of Adam."""
BYTES = 4


def check_memory(build: Callable[[], nn.Module], training: TrainingConfig, item_values: int) -> None:
    """Check that a model, its optimizer and one batch fit into memory; layers' outputs are not counted.

    Args:
        build: builds the model.
        training: settings of its training.
        item_values: float32 values that one item of a batch takes at least.

    Raises:
        TooLarge: if they do not fit.
        InputError: if the settings of the model are invalid.
    """
    planned = plan(build)
    of_model = 0 if planned is None else size_bytes(planned) * (COPIES + bool(training.weight_ema))
    of_batch = training.batch_size * item_values * BYTES
    available = memory_bytes()
    if torch.cuda.is_available():
        available = torch.cuda.get_device_properties(0).total_memory
    if of_model + of_batch > available:
        part, advice = (
            ("a batch", "training.batch_size") if of_batch > of_model else ("the model", "num_codes")
        )
        raise TooLarge(
            f"expected a training that fits into the {in_gb(available)} of memory of this machine, received "
            f"settings that need at least {in_gb(of_model + of_batch)}, most of them for {part}: lower "
            f"{advice} or the sizes"
        )


def signal_values(signal: SignalSpec) -> int:
    """Number of values of one signal."""
    return signal.channels * math.prod(signal.size)


def logit_values(autoencoder: Autoencoder) -> int:
    """Number of logits that a prior computes for one item."""
    return autoencoder.num_codebooks * math.prod(autoencoder.grid) * autoencoder.num_codes
