"""Arithmetic of log-probabilities that losses, logs and bounds share: units, and sums over an item."""

from __future__ import annotations

import math
from typing import overload

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@overload
def bits_per_dim(nats: Tensor, dims: int | float) -> Tensor: ...
@overload
def bits_per_dim(nats: float, dims: int | float) -> float: ...
def bits_per_dim(nats: Tensor | float, dims: int | float) -> Tensor | float:
    """Nats of an item -> bits for each of its `dims` dimensions: nats / (dims ln 2)."""
    return nats / (dims * math.log(2))


def sum_over_items(
    elements: Float[Tensor, "b c *size"], lengths: Int64[Tensor, " b"] | None = None
) -> Float[Tensor, " b"]:
    """Sum the elements of each item, without its padding.

    Args:
        elements: `(B, C, *size)`, such as log-probabilities.
        lengths: length of each item along the first axis after the channels; what lies beyond it is padding.
            None when every item fills the batch.
    """
    if lengths is not None:
        inside = torch.arange(elements.shape[2], device=elements.device) < lengths.unsqueeze(1)
        elements = elements * inside.view(len(elements), 1, -1, *(1,) * (elements.ndim - 3))
    return elements.flatten(1).sum(1)


def log_mean_exp(log_weights: Float[Tensor, "s b *others"]) -> Tensor:
    """ln 1/S sum_s exp(log_weights_s) over the first axis: the multi-sample bound of S log-weights."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
