"""Training step of each prior, compared with lower bounds from its matrix products.

The bounds are the times of the step's products at the machine's rate of large matrix products and of
multiply-adds in registers, measured in alternation in the same process; the ratio is the fraction of that
rate. Run as `python benchmarks/priors.py`; takes about half a minute.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from record import record
from timing import bound_works, bounds, interleaved
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.autoregressive.transformer import TransformerConfig
from smalti.core.allocator import keep_freed_memory

NUM_CODES, BATCH, GRID = 512, 32, (8, 8)


def compare(name: str, network: nn.Module, title: str, repeats: int, threads: int) -> None:
    """Time a training step of one network, and record it."""
    codes = torch.randint(NUM_CODES, (BATCH, 1, *GRID))
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(network(codes).flatten(0, -2), codes.flatten()).backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    flop = counter.get_total_flops()
    ours, *times = interleaved([step, *bound_works()], repeats)
    for limit, time in bounds(times, flop, threads).items():
        record(
            "priors",
            work=f"training step of a prior, {BATCH} grids of {GRID[0]}x{GRID[1]}, K={NUM_CODES}, {title}",
            peer=limit,
            threads=threads,
            ours=ours,
            theirs=time,
            benchmark=name,
            gflop=flop / 1e9,
            repeats=repeats,
        )


def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
) -> None:
    """Measure the gated PixelCNN and the transformer."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    keep_freed_memory()  # as `smalti train` does
    pixelcnn, transformer = GatedPixelCNNConfig(layers=15, channels=64), TransformerConfig()
    compare(
        "prior-pixelcnn",
        pixelcnn.build(NUM_CODES),
        f"gated PixelCNN, {pixelcnn.layers} layers of {pixelcnn.channels} channels",
        repeats,
        threads,
    )
    compare(
        "prior-transformer",
        transformer.build(NUM_CODES),
        f"transformer, {transformer.layers} layers of {transformer.channels} channels",
        repeats,
        threads,
    )


if __name__ == "__main__":
    typer.run(main)
