"""Sums over ranks: no-ops in one process, and in several what one process would compute."""

import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from smalti.nn.collectives import counts_of_ranks, rank_and_world, rows_over_ranks, sum_over_ranks


def _on_rank(rank: int, world: int, port: int, work: Callable[[int], Any], directory: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.save(work(rank), Path(directory) / f"{rank}.pt")
    dist.destroy_process_group()


def on_ranks(work: Callable[[int], Any], world: int) -> list[Any]:
    """What `work(rank)`, a function of a module, returns on each of `world` processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        mp.spawn(_on_rank, (world, port, work, directory), nprocs=world)
        return [torch.load(Path(directory) / f"{rank}.pt") for rank in range(world)]


SHARES = [torch.arange(6.0).view(3, 2), torch.empty(0, 2), 10 + torch.arange(8.0).view(4, 2)]
CHOSEN = torch.tensor([6, 0, 3, 3, 2])


def collect(rank: int) -> dict[str, Any]:
    share = SHARES[rank].clone().requires_grad_()
    summed = sum_over_ranks(share.sum(0))
    return {
        "rank": rank_and_world(),
        "sum": summed.detach(),
        "sum needs gradient": summed.requires_grad,
        "own share": share.detach(),
        "counts": counts_of_ranks(len(share), torch.device("cpu")),
        "rows": rows_over_ranks(share.detach(), CHOSEN),
    }


def test_in_several_processes():
    every = torch.cat(SHARES)
    for rank, result in enumerate(on_ranks(collect, 3)):
        assert result["rank"] == (rank, 3)
        assert torch.equal(result["sum"], every.sum(0))
        assert not result["sum needs gradient"]
        assert torch.equal(result["own share"], SHARES[rank])
        assert result["counts"] == [3, 0, 4]
        assert torch.equal(result["rows"], every[CHOSEN])


def test_in_one_process():
    rows = torch.randn(4, 2)
    assert rank_and_world() == (0, 1)
    assert torch.equal(sum_over_ranks(rows), rows)
    assert counts_of_ranks(4, rows.device) == [4]
    assert torch.equal(rows_over_ranks(rows, torch.tensor([3, 3, 0])), rows[[3, 3, 0]])
