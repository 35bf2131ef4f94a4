"""Nearest-code search: ours beside the plain form (chunked scores, then argmin), interleaved in one process.

Each record also says on how many of the checked tokens the two differ from a float64 search. Run as
`python benchmarks/search.py`; about a minute.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from record import record
from torch import Tensor

from smalti.quantizers.nearest import nearest_codes

SHAPES = ((65_536, 64, 512), (16_384, 256, 8_192), (8_192, 8, 16_384))
CHECKED = 1_024
"""Tokens that are held against float64."""

Search = Callable[[Tensor, Tensor], Tensor]


def plain(tokens: Tensor, codebook: Tensor) -> Tensor:
    """|e|^2 - 2 x.e in chunks of 256 tokens, and one argmin."""
    bias, weight = codebook.square().sum(1), -2 * codebook.t()
    return torch.cat([torch.addmm(bias, chunk, weight).argmin(1) for chunk in tokens.split(256)])


def exact(tokens: Tensor, codebook: Tensor) -> Tensor:
    """The oracle: differences in float64."""
    chunks = tokens.double().split(8)
    return torch.cat([(chunk[:, None] - codebook.double()).square().sum(2).argmin(1) for chunk in chunks])


def timed(search: Search, tokens: Tensor, codebook: Tensor) -> tuple[float, float]:
    """Wall and processor time of one call, milliseconds."""
    wall, processor = time.perf_counter(), time.process_time()
    search(tokens, codebook)
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - processor) * 1e3


def compare(num: int, dim: int, num_codes: int, repeats: int, threads: int) -> None:
    """Time both on one shape, and record it."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(num, dim, generator=generator)
    codebook = torch.randn(num_codes, dim, generator=generator)
    searches: tuple[Search, Search] = (nearest_codes, plain)
    rounds = [[timed(search, tokens, codebook) for search in searches] for _ in range(repeats + 1)][1:]
    (ours, ours_processor), (theirs, theirs_processor) = (
        [statistics.median(clock) for clock in zip(*runs, strict=True)] for runs in zip(*rounds, strict=True)
    )
    some = tokens[:CHECKED]
    expected = exact(some, codebook)
    record(
        "search",
        work=f"code search, {num} tokens of {dim}-d, K={num_codes}",
        peer="plain chunked search",
        threads=threads,
        ours=ours,
        theirs=theirs,
        unit="ms",
        ours_processor=ours_processor,
        theirs_processor=theirs_processor,
        checked=CHECKED,
        ours_wrong=int((nearest_codes(some, codebook) != expected).sum()),
        theirs_wrong=int((plain(some, codebook) != expected).sum()),
        repeats=repeats,
    )


def main(
    repeats: Annotated[int, typer.Option(help="Timed runs of each, in turn.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
) -> None:
    """Compare on three shapes: the usual one, a wide one, and many narrow codes."""
    torch.set_num_threads(threads)
    for shape in SHAPES:
        compare(*shape, repeats, threads)


if __name__ == "__main__":
    typer.run(main)
