"""Padding along the first axis (time), up to whole codes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.core.modality import Modality


def whole_length(length: int, stride: int) -> int:
    """A length rounded up to a multiple of the stride."""
    return -(-length // stride) * stride


def padded(
    modality: Modality, signal: Float[Tensor, "b c *size"], stride: int
) -> Float[Tensor, "b c *padded"]:
    """A signal in the model's range with its first axis filled up to whole codes.

    Args:
        modality: whose `padding` level is used (silence, or black).
        signal: of any length.
        stride: positions of the first axis for each code.
    """
    missing = whole_length(signal.shape[2], stride) - signal.shape[2]
    if not missing:
        return signal
    dtype = getattr(torch, modality.spec.domain.dtype.name)
    filler = modality.to_model(torch.full((1,) * signal.ndim, modality.padding, dtype=dtype))
    shape = (*signal.shape[:2], missing, *signal.shape[3:])
    return torch.cat([signal, filler.to(signal).expand(shape)], 2)
