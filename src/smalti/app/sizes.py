"""Compare the least memory of a training with that of the machine, before anything is allocated."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from smalti.core.building import TooLarge, in_gb, memory_bytes, plan, size_bytes
from smalti.core.models import LatentVariableModel
from smalti.training.loop import TrainingConfig

M = TypeVar("M", bound=nn.Module)

COPIES = 4
"""Copies of trained weights: the weights, their gradient and two moments of Adam."""


def check_memory(build: Callable[[], M], training: TrainingConfig, item_bytes: Callable[[M], int]) -> None:
    """Check that a rank's share of a batch, the model and its optimizer fit into memory.

    The outputs of layers are not counted, so a training that passes may still need too much.

    Args:
        build: builds the model.
        training: settings of its training.
        item_bytes: bytes that one item of a batch takes at least.

    Raises:
        TooLarge: if they do not fit.
        InputError: if the settings of the model are invalid.
    """
    planned = plan(build)
    if planned is None:
        return
    trained = sum(each.numel() * each.element_size() for each in planned.parameters() if each.requires_grad)
    of_model = size_bytes(planned) * (1 + bool(training.weight_ema)) + (COPIES - 1) * trained
    of_batch = training.batch_size * item_bytes(planned)
    # Ranks share the batch and may share the model.
    needed = (of_model + of_batch) // max(1, int(os.environ.get("WORLD_SIZE") or 1))
    available = memory_bytes()
    if torch.cuda.is_available():
        available = torch.cuda.get_device_properties(0).total_memory
    if needed > available:
        is_batch = of_batch > of_model
        part, advice = ("a batch", "training.batch_size") if is_batch else ("the model", "num_codes")
        raise TooLarge(
            f"expected a training that fits into the {in_gb(available)} of memory of this machine, received "
            f"settings that need at least {in_gb(needed)}, most of them for {part}: lower {advice} or the "
            "sizes"
        )


def signal_bytes(model: LatentVariableModel) -> int:
    """Bytes of one signal in float32."""
    return 4 * model.signal.channels * math.prod(model.signal.size)
