"""Reductions and random draws over ranks: the result of a step does not depend on the number of processes.

Each function checks at every call whether a process group exists, because a model may be built before its
group; in a single process it is a no-op. Every rank must call the same functions at every step, regardless of
its data, or the other ranks wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks, without a gradient."""
    if rank_and_world()[1] == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Average a tensor over all ranks, without a gradient.

    A loss that sums over a varying number of positions divides by the mean of that number over ranks; then
    the losses of the ranks average to the loss of one process on the whole batch.
    """
    return sum_over_ranks(tensor) / rank_and_world()[1]


def counts_of_ranks(count: int, device: torch.device) -> list[int]:
    """Gather the count of each rank, in the order of ranks."""
    rank, world = rank_and_world()
    counts = torch.zeros(world, dtype=torch.int64, device=device)
    counts[rank] = count
    return sum_over_ranks(counts).tolist()


def rows_over_ranks(rows: Tensor, indices: Tensor) -> Tensor:
    """Select rows from the concatenation of all ranks' rows; the result is the same on every rank.

    Args:
        rows: `(n_r, ...)`, rows of this rank; ranks may have different numbers of rows.
        indices: int64 `(m,)`, indices into the concatenation, the same on every rank.
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
    """Draw uniform numbers in [0, 1) for the batch of all ranks, and return the share of this rank.

    Every rank draws the numbers of all ranks from the same seed, so the shares of all ranks, concatenated
    along the batch, are the numbers that a single process draws.

    Args:
        shape: `(b, ...)`, shape of a rank's share, the same on every rank.
        device: device of the numbers.
    """
    rank, world = rank_and_world()
    return torch.rand(world, *shape, device=device)[rank]


def randn_over_ranks(shape: Sequence[int], device: torch.device) -> Tensor:
    """Draw standard normal numbers for the batch of all ranks; see `rand_over_ranks`."""
    rank, world = rank_and_world()
    return torch.randn(world, *shape, device=device)[rank]


def randint_over_ranks(high: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Draw int64 numbers in [0, high) for the batch of all ranks; see `rand_over_ranks`."""
    rank, world = rank_and_world()
    return torch.randint(high, (world, *shape), device=device)[rank]
