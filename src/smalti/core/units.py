"""Units of log-probabilities and sums over items, for losses, logs and bounds."""

from __future__ import annotations

import math
from typing import overload

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from smalti.core.signals import Domain


@overload
def bits_per_dim(nats: Tensor, dims: int | float) -> Tensor: ...
@overload
def bits_per_dim(nats: float, dims: int | float) -> float: ...
def bits_per_dim(nats: Tensor | float, dims: int | float) -> Tensor | float:
    """Convert the nats of an item to bits per dimension: nats / (dims ln 2)."""
    return nats / (dims * math.log(2))


@overload
def per_dim(nats: Tensor, dims: int | float, domain: Domain) -> Tensor: ...
@overload
def per_dim(nats: float, dims: int | float, domain: Domain) -> float: ...
def per_dim(nats: Tensor | float, dims: int | float, domain: Domain) -> Tensor | float:
    """Convert the nats of an item to the domain's unit per dimension: bits for levels, nats for densities."""
    return nats / (dims * domain.nats_per_unit)


def sum_over_items(
    elements: Float[Tensor, "b c *size"],
    lengths: Int64[Tensor, " b"] | None = None,
    mask: Bool[Tensor, "b c *size"] | None = None,
) -> Float[Tensor, " b"]:
    """Sum the elements of each item, excluding padding and missing values.

    Args:
        elements: `(B, C, *size)`, such as log-probabilities.
        lengths: length of each item along the first axis after the channels; elements beyond it are padding.
            None if no item is padded.
        mask: False at missing elements; None if none is missing.
    """
    if mask is not None:
        elements = elements * mask
    if lengths is not None:
        inside = torch.arange(elements.shape[2], device=elements.device) < lengths.unsqueeze(1)
        elements = elements * inside.view(len(elements), 1, -1, *(1,) * (elements.ndim - 3))
    return elements.flatten(1).sum(1)


def log_mean_exp(log_weights: Float[Tensor, "s b *others"]) -> Tensor:
    """Compute ln 1/S sum_s exp(log_weights_s) over axis 0: the multi-sample bound of S log-weights."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
