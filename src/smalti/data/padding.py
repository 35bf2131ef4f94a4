"""Pad signals along their first axis (time) to a multiple of the stride."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.core.modality import Modality


def whole_length(length: int, stride: int) -> int:
    """Round a length up to a multiple of the stride."""
    return -(-length // stride) * stride


def padded(
    modality: Modality, signal: Float[Tensor, "b c *size"], stride: int, before: int = 0
) -> Float[Tensor, "b c *padded"]:
    """Pad the first axis of a signal in the model's range to a multiple of the stride.

    Args:
        modality: modality of the signal; its `padding` level (silence or black) is the fill value.
        signal: signal `(B, C, *size)` of any length.
        stride: positions along the first axis per code.
        before: positions of the signal before this part of it.
    """
    missing = -(before + signal.shape[2]) % stride
    if not missing:
        return signal
    dtype = getattr(torch, modality.spec.domain.dtype.name)
    filler = modality.to_model(torch.full((1,) * signal.ndim, modality.padding, dtype=dtype))
    shape = (*signal.shape[:2], missing, *signal.shape[3:])
    return torch.cat([signal, filler.to(signal).expand(shape)], 2)
