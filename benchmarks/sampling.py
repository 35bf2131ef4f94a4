"""Cached sampling of code grids, compared with a full forward pass of the same network for every code.

The time of the alternative is the median time of one full forward pass over the whole grid, times the number
of codes. Both are timed in alternation in one process. Run as `python benchmarks/sampling.py`; takes about
five minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from record import record
from timing import interleaved

from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.autoregressive.sampling import sample
from smalti.autoregressive.transformer import TransformerConfig
from smalti.core.priors import AutoregressiveNetwork

NUM_CODES = 512
PIXELCNN, TRANSFORMER = GatedPixelCNNConfig(layers=15, channels=64), TransformerConfig()


@dataclass(frozen=True)
class Case:
    """A network to sample from.

    Attributes:
        title: the network, with its sizes.
        build: builds the network.
        num: number of grids sampled at once.
        grid: size of the grids.
        target: target speed-up over full forward passes.
    """

    title: str
    build: Callable[[], AutoregressiveNetwork]
    num: int
    grid: tuple[int, int]
    target: float


def _pixelcnn(grid: tuple[int, int], target: float) -> Case:
    title = f"gated PixelCNN, {PIXELCNN.layers} layers of {PIXELCNN.channels} channels"
    return Case(title, lambda: PIXELCNN.build(NUM_CODES), 16, grid, target)


def _transformer(num: int) -> Case:
    title = f"transformer, {TRANSFORMER.layers} layers of {TRANSFORMER.channels} channels"
    return Case(title, lambda: TRANSFORMER.build(NUM_CODES), num, (32, 32), 100)


CASES = {
    "pixelcnn-8": _pixelcnn((8, 8), 60),
    "pixelcnn-32": _pixelcnn((32, 32), 1400),
    "transformer-1024": _transformer(16),
    "transformer-1024-alone": _transformer(1),
}


@torch.no_grad()
def compare(name: str, repeats: int, threads: int) -> None:
    """Time both for one case, and record it."""
    case = CASES[name]
    network = case.build().eval()
    codes = torch.randint(NUM_CODES, (case.num, 1, *case.grid))
    ours, forward = interleaved(
        [lambda: sample(network, case.num, case.grid), lambda: network(codes)], repeats
    )
    rows, columns = case.grid
    record(
        "sampling",
        work=f"sample {case.num} grid{'s' * (case.num > 1)} of {rows}x{columns}, K={NUM_CODES}, {case.title}",
        peer="full forward per symbol",
        threads=threads,
        ours=ours,
        theirs=forward.times(rows * columns),
        benchmark=name,
        target=case.target,
        repeats=repeats,
    )


def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Names of cases. Default: all.")] = None,
) -> None:
    """Compare on grids of 8x8 and 32x32 codes, with a PixelCNN and a transformer."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    for name in only or CASES:
        compare(name, repeats, threads)


if __name__ == "__main__":
    typer.run(main)
