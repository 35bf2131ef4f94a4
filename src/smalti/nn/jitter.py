"""Time jitter of latents: a regulariser that keeps latents from depending on their neighbours."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.nn.collectives import rand_over_ranks


def jitter(latents: Float[Tensor, "b d t"], share: float) -> Float[Tensor, "b d t"]:
    """Replace the latents of random positions by those of the left or right neighbour.

    The first and last positions use their only neighbour for both sides. Chorowski et al. 2019 (arXiv
    1901.08810) use a share of 0.12, van Niekerk et al. 2020 (arXiv 2005.09409) one of 0.5. Every rank draws
    for the batch of all ranks.

    Args:
        latents: latents along one axis, `(B, D, T)`.
        share: probability of a replacement at each position, in [0, 1]; half of it for each neighbour.
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
