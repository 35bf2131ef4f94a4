"""Code search and quantizer steps beside the package `vector-quantize-pytorch`, interleaved in one process.

Also beside the plain form (chunked scores, then argmin), and beside the time that the product alone would
take at the rate at which this machine multiplies large matrices, and multiplies and adds in registers: there
the ratio is the share of that peak. Each record of a search also says on how many of the checked tokens it
differs from a float64 search.

The package's time is that of its module's forward, as it has no search by itself: in evaluation mode that is
the search and a look-up. In training mode, both do forward, backward and moving averages; the package with
the rotation trick, its default, and straight-through.

Run as `.venv-peers/bin/python benchmarks/search.py`; about two minutes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from record import record
from timing import LARGE, Work, bound_works, bounds, interleaved
from torch import Tensor

from smalti.quantizers.nearest import nearest_codes
from smalti.quantizers.vq import VectorQuantizer

try:
    from vector_quantize_pytorch import VectorQuantize as Peer
except ModuleNotFoundError:
    Peer = None

PEER = "vector-quantize-pytorch"
SHAPES = {
    "search-64d": (65_536, 64, 512, 10, 0.4),
    "search-256d": (16_384, 256, 8_192, 7, 0.7),
    "search-8d": (8_192, 8, 16_384, 40, None),
}
"""Tokens, dimensions, codes; asked are so many times the package's speed, and such a share of the peak."""
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


def peer_of(codebook: Tensor, **settings: object) -> Any:
    """The package's module with these codes."""
    num_codes, dim = codebook.shape
    peer = Peer(dim=dim, codebook_size=num_codes, **settings)
    peer._codebook.embed.data.copy_(codebook[None])
    peer._codebook.embed_avg.data.copy_(codebook[None])
    return peer


def compare(name: str, repeats: int, threads: int) -> None:
    """Time all searches on one shape, and record it."""
    num, dim, num_codes, wanted, share = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(num, dim, generator=generator)
    codebook = torch.randn(num_codes, dim, generator=generator)
    searches: dict[str, Search] = {"ours": nearest_codes, "plain chunked search": plain}
    if Peer is not None:
        peer = peer_of(codebook).eval()
        searches[PEER] = lambda tokens, _: peer(tokens[None])[1][0]
    works: list[Work] = [lambda search=search: search(tokens, codebook) for search in searches.values()]
    flop = 2 * num * dim * num_codes
    own, *times = interleaved([*works, *bound_works()], repeats)
    names = list(searches)[1:]
    others = dict(zip(names, times[: len(names)], strict=True))
    others |= bounds(times[len(names) :], flop, threads)
    expected = exact(tokens[:CHECKED], codebook)

    def wrong(name: str) -> int | None:
        if name not in searches:
            return None
        return int((searches[name](tokens[:CHECKED], codebook) != expected).sum())

    for peer_name, theirs in others.items():
        record(
            "search",
            work=f"code search, {num} tokens of {dim}-d, K={num_codes}",
            peer=peer_name,
            threads=threads,
            ours=own.times(1e3),
            theirs=theirs.times(1e3),
            unit="ms",
            packages=(PEER,) if peer_name == PEER else (),
            benchmark=name,
            target={PEER: wanted, LARGE: share}.get(peer_name),
            gflop_per_second=flop / own.wall / 1e9,
            checked=CHECKED,
            ours_wrong=wrong("ours"),
            theirs_wrong=wrong(peer_name),
            repeats=repeats,
        )


def compare_steps(repeats: int, threads: int) -> None:
    """Time forward, backward and moving averages of a quantizer at 65,536 x 64-d, K = 512, and record it."""
    if Peer is None:
        return
    num, dim, num_codes, wanted, _ = SHAPES["search-64d"]
    side, batch = 32, num // 32**2
    latents = torch.randn(batch, dim, side, side, generator=torch.Generator().manual_seed(0))
    # As an encoder gives them: the channels of a place beside each other.
    latents = latents.contiguous(memory_format=torch.channels_last)
    tokens = latents.movedim(1, -1).flatten(1, 2)
    assert tokens.is_contiguous()
    quantizer = VectorQuantizer(dim, num_codes)
    codebook = torch.randn(num_codes, dim, generator=torch.Generator().manual_seed(1))
    peers = {
        f"{PEER}, rotation trick": peer_of(codebook),
        f"{PEER}, straight through": peer_of(codebook, rotation_trick=False),
    }

    def ours() -> None:
        x = latents.detach().requires_grad_()
        quantized = quantizer(x)
        (quantized.latents.sum() + quantized.loss).backward()

    def theirs(peer: Any) -> None:
        x = tokens.detach().requires_grad_()
        quantized, _, loss = peer(x)
        (quantized.sum() + loss).backward()

    work = f"quantizer step (forward, backward, averages), {num} tokens of {dim}-d, K={num_codes}"
    evaluated, peer_evaluated = copy.deepcopy(quantizer).eval(), peer_of(codebook).eval()
    with torch.no_grad():
        quantizer_time, peer_time = interleaved(
            [lambda: evaluated(latents), lambda: peer_evaluated(tokens)], repeats
        )
    record(
        "search",
        work=f"quantizer in evaluation mode, whole, {num} tokens of {dim}-d, K={num_codes}",
        peer=PEER,
        threads=threads,
        ours=quantizer_time.times(1e3),
        theirs=peer_time.times(1e3),
        unit="ms",
        packages=(PEER,),
        benchmark="search-64d-module",
        repeats=repeats,
    )
    own, *others = interleaved([ours, *(lambda peer=peer: theirs(peer) for peer in peers.values())], repeats)
    for name, other in zip(peers, others, strict=True):
        record(
            "search",
            work=work,
            peer=name,
            threads=threads,
            ours=own.times(1e3),
            theirs=other.times(1e3),
            unit="ms",
            packages=(PEER,),
            benchmark="search-64d-train",
            target=wanted,
            repeats=repeats,
        )


def main(
    repeats: Annotated[int, typer.Option(help="Timed runs of each, in turn.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
) -> None:
    """Compare on three shapes: the usual one, a wide one, and many narrow codes; and a step on the first."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if Peer is None:
        print(f"{PEER} is not installed: run `make peers` to compare with it.")
    for name in SHAPES:
        with torch.no_grad():
            compare(name, repeats, threads)
    compare_steps(repeats, threads)


if __name__ == "__main__":
    typer.run(main)
