"""Latents of tokens that have no code."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def with_undefined(z_q: Float[Tensor, "*n d"], tokens: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Replace the code of each token that is not finite by NaN, which stops the training.

    Such a token has no nearest code. With the code of index 0 in its place, the loss of the decoder would
    stay finite.
    """
    # Infinite or NaN if any element is, in one pass.
    largest = tokens.detach().abs().amax(-1, keepdim=True)
    return torch.where(largest < torch.inf, z_q, torch.nan)
