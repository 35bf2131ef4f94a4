"""Base class and helpers of conditioners that add a bias."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from typing import NoReturn, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from smalti.core.conditioners import Conditioner
from smalti.core.conditions import ConditionValue
from smalti.core.errors import InputError
from smalti.nn.collectives import rand_over_ranks


class AdditiveConditioner(Conditioner, ABC):
    """Adds the bias `(B, C, positions)` computed by `prepare`; a single position is broadcast to all."""

    @final
    def forward(
        self, x: Float[Tensor, "b c *positions"], prepared: Tensor, position: int | None = None
    ) -> Float[Tensor, "b c *positions"]:
        """Return `x` plus the bias."""
        if position is not None:
            return x + prepared[:, :, position if prepared.shape[2] > 1 else 0]
        return (x.flatten(2) + prepared).reshape(x.shape)


def along_grid(bias: Float[Tensor, "b f c"], grid: Sequence[int]) -> Float[Tensor, "b c positions"]:
    """Repeat biases of frames over the positions of each frame.

    Raises:
        InputError: if the number of frames differs from the first axis of the grid.
    """
    if bias.shape[1] != grid[0]:
        raise InputError(
            f"expected one condition for each of {grid[0]} frames, received {bias.shape[1]}: pass as many as "
            "the first axis of the grid is long"
        )
    return bias.transpose(1, 2).repeat_interleave(math.prod(grid[1:]), 2)


def gradient_path(module: nn.Module) -> Float[Tensor, ""]:
    """Return a zero that depends on every parameter of a module.

    A conditioner adds it where a batch lacks the condition: data-parallel training expects a gradient of
    every parameter on every rank at every step.
    """
    # Sums of empty slices: weights that are not finite do not make them NaN, unlike products with 0.
    return torch.stack([parameter.flatten()[:0].sum() for parameter in module.parameters()]).sum()


def hidden_items(batch_size: int, share: float, hide: bool, device: torch.device) -> Bool[Tensor, " b"]:
    """Mask of the items whose condition training hides, drawn for the batch of all ranks."""
    if not hide or not share:
        return torch.zeros(batch_size, dtype=torch.bool, device=device)
    return rand_over_ranks((batch_size,), device) < share


def check_items(value: ConditionValue, batch_size: int) -> None:
    """Check that a condition has a value for each item of the batch.

    Raises:
        InputError: if the number of items differs.
    """
    if len(value.data) != batch_size:
        raise InputError(
            f"expected a condition of {batch_size} items, received {len(value.data)}: pass one for each item "
            "of the batch"
        )


def refuse(expected: str, value: ConditionValue) -> NoReturn:
    """Raise an `InputError` for a value of the wrong kind or width."""
    raise InputError(
        f"expected {expected}, received a {type(value).__name__} of {value.data.dtype} and shape "
        f"{tuple(value.data.shape)}: pass a matching value, or build another conditioner"
    )
