"""Dropout of the last stages of a residual quantizer (SoundStream, arXiv 2107.03312, section III.C)."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

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
