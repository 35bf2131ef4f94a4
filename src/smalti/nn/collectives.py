"""Sums and draws over ranks, so that the result of a step does not depend on the number of processes.

Each function asks afresh whether a process group exists (a cached answer would leave codebooks unsynced
when a model is built before the group), and is a no-op in a single process. A caller reaches it on every
rank at every step, whatever that rank's data hold, so that no rank waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """This process's rank, and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all ranks, without a gradient."""
    if rank_and_world()[1] == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all ranks, without a gradient.

    A loss that is a sum over a varying number of positions divides by this mean of that number, so that the
    losses of the ranks average to the loss of one process on the whole batch.
    """
    return sum_over_ranks(tensor) / rank_and_world()[1]


def counts_of_ranks(count: int, device: torch.device) -> list[int]:
    """What each rank has of something, in the order of ranks."""
    rank, world = rank_and_world()
    counts = torch.zeros(world, dtype=torch.int64, device=device)
    counts[rank] = count
    return sum_over_ranks(counts).tolist()


def rows_over_ranks(rows: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices` of the concatenation of every rank's `rows`, the same on every rank.

    Args:
        rows: `(n_r, ...)`, this rank's share; the shares may differ in length.
        indices: int64 `(m,)` into the concatenation, the same on every rank.
    """
    rank, world = rank_and_world()
    if world == 1:
        return rows[indices]
    counts = counts_of_ranks(len(rows), rows.device)
    local = indices - sum(counts[:rank])
    mine = (local >= 0) & (local < len(rows))
    picked = rows.new_zeros(len(indices), *rows.shape[1:])
    picked[mine] = rows[local[mine]]
    return sum_over_ranks(picked)


def rand_over_ranks(shape: Sequence[int], device: torch.device) -> Tensor:
    """This rank's share of uniform draws in [0, 1) for the batch of all ranks.

    Every rank draws for all ranks from the same seed, so the shares of all ranks, concatenated along the
    batch, are the numbers that a single process draws.

    Args:
        shape: `(b, ...)` of this rank's share; the same on every rank.
        device: where to draw.
    """
    rank, world = rank_and_world()
    return torch.rand(world, *shape, device=device)[rank]


def randn_over_ranks(shape: Sequence[int], device: torch.device) -> Tensor:
    """This rank's share of standard normal draws for the batch of all ranks; see `rand_over_ranks`."""
    rank, world = rank_and_world()
    return torch.randn(world, *shape, device=device)[rank]


def randint_over_ranks(high: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """This rank's share of int64 draws in [0, high) for the batch of all ranks; see `rand_over_ranks`."""
    rank, world = rank_and_world()
    return torch.randint(high, (world, *shape), device=device)[rank]
