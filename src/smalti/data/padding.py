"""Pad signals to multiples of the strides of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.modality import Modality
from smalti.core.signals import TIME


def whole_length(length: int, stride: int) -> int:
    """Round a length up to a multiple of the stride."""
    return -(-length // stride) * stride


def whole_size(size: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Round every side up to a multiple of its stride."""
    return tuple(whole_length(side, stride) for side, stride in zip(size, strides, strict=True))


def padded(
    modality: Modality, signal: Float[Tensor, "b c *size"], strides: Sequence[int], before: int = 0
) -> Float[Tensor, "b c *padded"]:
    """Pad a signal in the model's range at the end of every axis to a multiple of the stride.

    Time is filled with the modality's `padding` (silence or black), other axes by reflection.

    Args:
        modality: modality of the signal.
        signal: signal `(B, C, *size)` of any size.
        strides: positions per code along each axis.
        before: positions along time before this part of a signal.
    """
    sides = (before + signal.shape[2], *signal.shape[3:])
    if not any(side % stride for side, stride in zip(sides, strides, strict=True)):
        return signal
    for axis, (name, stride) in enumerate(zip(modality.spec.axes, strides, strict=True), 2):
        side = signal.shape[axis]
        missing = -(before + side if name == TIME else side) % stride
        if missing and name == TIME:
            shape = (*signal.shape[:axis], missing, *signal.shape[axis + 1 :])
            signal = torch.cat([signal, _filler(modality).to(signal).expand(shape)], axis)
        elif missing:
            signal = signal.index_select(axis, reflected(side, side + missing).to(signal.device))
    return signal


def reflected(length: int, whole: int) -> Int64[Tensor, " whole"]:
    """Positions of a line that is continued by reflection about its last and first element.

    Args:
        length: of the line, at least 1.
        whole: number of positions, at least the length, and any multiple of it.
    """
    period = max(1, 2 * (length - 1))
    positions = torch.arange(whole) % period
    return torch.minimum(positions, period - positions) if length > 1 else torch.zeros_like(positions)


def _filler(modality: Modality) -> Tensor:
    """The value that fills up time, in the model's range, with as many axes as a batch."""
    dtype = getattr(torch, modality.spec.domain.dtype.name)
    return modality.to_model(torch.full((1,) * (2 + modality.spec.ndim), modality.padding, dtype=dtype))
