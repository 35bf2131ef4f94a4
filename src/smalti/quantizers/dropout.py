"""Dropout of the last stages of a residual quantizer (SoundStream, arXiv 2107.03312, section III.C)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.core.errors import InputError
from smalti.nn.collectives import rand_over_ranks


def stages_kept(latents: Tensor, num_stages: int, share: float) -> Int64[Tensor, " b"]:
    """Draw the number of stages that each item is decoded from, for the batch of all ranks.

    Args:
        latents: `(B, ...)`.
        num_stages: N.
        share: share of the items that keep n stages only, with n uniform from 1 to N; the others keep all.
    """
    drawn = rand_over_ranks((len(latents), 2), latents.device)
    some = (drawn[:, 1] * num_stages).long().clamp_max(num_stages - 1) + 1
    return torch.where(drawn[:, 0] < share, some, num_stages)


def check_stages(num: Any, num_stages: int) -> None:
    """Check a number of stages to keep.

    Raises:
        InputError: if it is no integer from 1 to the number of stages.
    """
    if not isinstance(num, int) or isinstance(num, bool) or not 1 <= num <= num_stages:
        raise InputError(
            f"expected a number of codes from 1 to {num_stages}, the stages of the quantizer, received "
            f"{num!r}: pass an integer in this range"
        )
