"""Losses as functions of a decoder's output: their gradients, balanced and applied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.nn.collectives import sum_over_ranks

LARGEST = 1e4
"""Upper limit of the factor of a balanced loss."""


def gradients(loss: Float[Tensor, ""], at: Sequence[Tensor]) -> list[Tensor]:
    """Compute the gradients of a loss at some tensors; zeros where it does not depend on them."""
    found = torch.autograd.grad(loss, list(at), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if each is None else each for x, each in zip(at, found, strict=True)]


def linearised(loss: Float[Tensor, ""], at: Sequence[Tensor], slopes: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Return a loss with the same value and the given gradients.

    Its backward pass does not repeat that of the loss, which has computed the gradients before.
    """
    zero = torch.stack([((x - x.detach()) * slope).sum() for x, slope in zip(at, slopes, strict=True)]).sum()
    return loss.detach() + zero


def balance_factor(reference: Tensor, balanced: Tensor) -> Float[Tensor, ""]:
    """Factor that gives a gradient the norm of another one, over the items of all ranks.

    Args:
        reference: gradient with the wanted norm.
        balanced: gradient to be scaled, at the same tensor.
    """
    squares = torch.stack([reference.float().square().sum(), balanced.float().square().sum()])
    wanted, received = sum_over_ranks(squares.detach()).sqrt()
    return (wanted / (received + 1e-12)).clamp_max(LARGEST)
