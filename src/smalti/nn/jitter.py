"""Time jitter of latents: a regulariser that keeps a code from speaking for its neighbours."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.nn.collectives import rand_over_ranks


def jitter(latents: Float[Tensor, "b d t"], share: float) -> Float[Tensor, "b d t"]:
    """Each position takes the latents of its left or right neighbour, with probability `share` in all.

    At the ends the one neighbour there is serves for both. Chorowski et al. 2019 (arXiv 1901.08810) use 0.12,
    van Niekerk et al. 2020 (arXiv 2005.09409) 0.5. Every rank draws for the batch of all ranks.

    Args:
        latents: of a line of positions.
        share: in [0, 1].
    """
    batch_size, _, length = latents.shape
    if length < 2:
        return latents
    drawn = rand_over_ranks((batch_size, length), latents.device)
    at = torch.arange(length, device=latents.device)
    step = torch.where(drawn < share / 2, -1, torch.where(drawn < share, 1, 0))
    source = at + step
    source = torch.where(source < 0, 1, torch.where(source >= length, length - 2, source))
    return latents.gather(2, source.unsqueeze(1).expand_as(latents))
