"""Cached sampling of a gated PixelCNN against a full forward for every symbol.

The peer's time is the median time of one full forward, times the number of symbols. Both are timed in turn in
one process. Run as `python benchmarks/sampling.py`; about half a minute.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from record import record

from smalti.autoregressive.pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from smalti.autoregressive.sampling import sample


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


@torch.no_grad()
def compare(grid: tuple[int, int], batch_size: int, num_codes: int, repeats: int, threads: int) -> None:
    """Time both on one grid size, and record it."""
    config = GatedPixelCNNConfig(layers=15, channels=64)
    network = GatedPixelCNN(config, num_codes).eval()
    codes = torch.randint(num_codes, (batch_size, 1, *grid))
    works = (lambda: sample(network, batch_size, grid), lambda: network(codes))
    for work in works:
        work()
    timed = [[seconds(work) for work in works] for _ in range(repeats)]
    (ours, ours_processor), (forward, forward_processor) = (
        [statistics.median(kind) for kind in zip(*runs, strict=True)] for runs in zip(*timed, strict=True)
    )
    rows, columns = grid
    symbols = rows * columns
    record(
        "sampling",
        work=f"sample {batch_size} grids of {rows}x{columns}, K={num_codes}, gated PixelCNN, "
        f"{config.layers} layers of {config.channels} channels",
        peer="naive full forward",
        threads=threads,
        ours=ours,
        theirs=forward * symbols,
        ours_processor=ours_processor,
        theirs_processor=forward_processor * symbols,
        repeats=repeats,
    )


def main(
    repeats: Annotated[int, typer.Option(help="Timed runs of each, in turn.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Grids drawn at once.")] = 16,
    num_codes: Annotated[int, typer.Option(help="Codes of the codebook.")] = 512,
) -> None:
    """Compare on grids of 8x8 and of 32x32."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    for grid in ((8, 8), (32, 32)):
        compare(grid, batch_size, num_codes, repeats, threads)


if __name__ == "__main__":
    typer.run(main)
