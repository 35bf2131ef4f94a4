"""Share of the codes that a batch uses."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

MOST_COUNTED = 1 << 16
"""Codes up to which a table of all codes is faster than sorting the codes of the batch."""


def batch_usage(indices: Int64[Tensor, "g n"], num_codes: int) -> Float[Tensor, ""]:
    """Share of the codes that occur in a batch, averaged over the codebooks; over a whole split it is higher.

    Memory does not grow with the number of codes.
    """
    if num_codes <= MOST_COUNTED:
        seen = torch.zeros(len(indices), num_codes, dtype=torch.float32, device=indices.device)
        return seen.scatter_(1, indices, 1.0).mean()
    ordered = indices.sort(1).values
    distinct = (ordered.diff(dim=1) != 0).sum(1) + 1
    return distinct.float().mean() / float(num_codes)
