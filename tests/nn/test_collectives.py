"""Sums and draws over ranks: in several processes what one process would compute."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from smalti.nn.collectives import (
    counts_of_ranks,
    mean_over_ranks,
    rand_over_ranks,
    randint_over_ranks,
    randn_over_ranks,
    rank_and_world,
    rows_over_ranks,
    sum_over_ranks,
)
from tests import forked


def _on_rank(rank: int, world: int, work: Callable[[int], Any], directory: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{directory}/rendezvous", rank=rank, world_size=world)
    torch.save(work(rank), Path(directory) / f"{rank}.pt")
    dist.destroy_process_group()


def on_ranks(work: Callable[[int], Any], world: int) -> list[Any]:
    """Results of `work(rank)`, a function of a module, on each of `world` processes."""
    with tempfile.TemporaryDirectory() as directory:
        mp.start_processes(_on_rank, (world, work, directory), nprocs=world, start_method=forked.METHOD)
        return [torch.load(Path(directory) / f"{rank}.pt") for rank in range(world)]


SHARES = [
    (torch.arange(6.0).view(3, 2), 10 + torch.arange(8.0).view(4, 2)),
    (torch.empty(0, 2), torch.arange(14.0).view(7, 2)),
    (torch.arange(14.0).view(7, 2), torch.empty(0, 2)),
]
"""Rows of the first rank and the second."""
CHOSEN = torch.tensor([6, 0, 3, 3, 2])


def collect(rank: int) -> list[dict[str, Any]]:
    results = []
    for share in (shares[rank].clone().requires_grad_() for shares in SHARES):
        summed = sum_over_ranks(share.sum(0))
        results.append(
            {
                "rank": rank_and_world(),
                "sum": summed.detach(),
                "mean": mean_over_ranks(share.sum(0)),
                "sum needs gradient": summed.requires_grad,
                "own share": share.detach(),
                "counts": counts_of_ranks(len(share), torch.device("cpu")),
                "rows": rows_over_ranks(share.detach(), CHOSEN),
            }
        )
    return results


def test_in_two_processes():
    for rank, results in enumerate(on_ranks(collect, 2)):
        for shares, result in zip(SHARES, results, strict=True):
            every = torch.cat(shares)
            assert result["rank"] == (rank, 2)
            assert torch.equal(result["sum"], every.sum(0))
            assert torch.equal(result["mean"], every.sum(0) / 2)
            assert not result["sum needs gradient"]
            assert torch.equal(result["own share"], shares[rank])
            assert result["counts"] == [len(share) for share in shares]
            assert torch.equal(result["rows"], every[CHOSEN])


def test_in_one_process():
    rows = torch.randn(4, 2)
    assert rank_and_world() == (0, 1)
    assert torch.equal(sum_over_ranks(rows), rows)
    assert torch.equal(mean_over_ranks(rows), rows)
    assert counts_of_ranks(4, rows.device) == [4]
    assert torch.equal(rows_over_ranks(rows, torch.tensor([3, 3, 0])), rows[[3, 3, 0]])


def draws(batch_size: int) -> list[torch.Tensor]:
    """Of every kind, one after the other, with one seed."""
    torch.manual_seed(5)
    cpu = torch.device("cpu")
    return [
        rand_over_ranks((batch_size,), cpu),
        randn_over_ranks((batch_size, 2, 9), cpu),
        randint_over_ranks(100, (batch_size, 3), cpu),
    ]


def draws_of_rank(rank: int) -> list[torch.Tensor]:
    return draws(4)


def test_ranks_share_the_draws_of_one_process():
    shares = on_ranks(draws_of_rank, 2)
    torch.manual_seed(5)
    oracle = [torch.rand(8), torch.randn(8, 2, 9), torch.randint(100, (8, 3))]
    for share, whole, expected in zip(zip(*shares, strict=True), draws(8), oracle, strict=True):
        assert torch.equal(torch.cat(share), expected)
        assert torch.equal(whole, expected)
