"""Code search and quantizer steps, compared with the package `vector-quantize-pytorch` in one process.

Searches are also compared with a plain form (chunked scores, then argmin), and with lower bounds: the time
of the matrix product at the machine's rate of large products and of multiply-adds in registers, where the
ratio is the fraction of that rate. Each record of a search states on how many of the checked tokens it
differs from a float64 search.

The package has no separate search, so its time is that of its module's forward: in evaluation mode, search
and look-up. In training mode, both do forward, backward and moving averages; the package with the rotation
trick (its default) and with the straight-through estimator.

Run as `.venv-peers/bin/python benchmarks/search.py`; takes about two minutes.
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
"""Tokens, dimensions, codes; target speed-up over the package, target fraction of the attainable rate."""
CHECKED = 1_024
"""Number of tokens compared with the float64 search."""

Search = Callable[[Tensor, Tensor], Tensor]


def plain(tokens: Tensor, codebook: Tensor) -> Tensor:
    """Search by |e|^2 - 2 x.e in chunks of 256 tokens, and argmin."""
    bias, weight = codebook.square().sum(1), -2 * codebook.t()
    return torch.cat([torch.addmm(bias, chunk, weight).argmin(1) for chunk in tokens.split(256)])


def exact(tokens: Tensor, codebook: Tensor) -> Tensor:
    """Search by squared differences in float64, as the oracle."""
    chunks = tokens.double().split(8)
    return torch.cat([(chunk[:, None] - codebook.double()).square().sum(2).argmin(1) for chunk in chunks])


def peer_of(codebook: Tensor, **settings: object) -> Any:
    """Build the package's module with these codes."""
    num_codes, dim = codebook.shape
    peer = Peer(dim=dim, codebook_size=num_codes, **settings)
    peer._codebook.embed.data.copy_(codebook[None])
    peer._codebook.embed_avg.data.copy_(codebook[None])
    return peer


def compare(name: str, repeats: int, threads: int) -> None:
    """Time all searches on one shape, and record the comparisons."""
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
    """Time forward, backward and moving averages of a quantizer (65,536 tokens of 64-d, K = 512)."""
    if Peer is None:
        return
    num, dim, num_codes, wanted, _ = SHAPES["search-64d"]
    side, batch = 32, num // 32**2
    latents = torch.randn(batch, dim, side, side, generator=torch.Generator().manual_seed(0))
    # Channels last, the layout of smalti's encoders.
    latents = latents.contiguous(memory_format=torch.channels_last)
    tokens = latents.movedim(1, -1).flatten(1, 2)
    assert tokens.is_contiguous()
    quantizer = VectorQuantizer(dim, num_codes)
    codebook = torch.randn(num_codes, dim, generator=torch.Generator().manual_seed(1))
    peers = {
        f"{PEER}, rotation trick": peer_of(codebook),
        f"{PEER}, straight-through": peer_of(codebook, rotation_trick=False),
    }

    def ours() -> None:
        x = latents.detach().requires_grad_()
        quantized = quantizer(x)
        (quantized.latents.sum() + quantized.loss).backward()

    def theirs(peer: Any) -> None:
        x = tokens.detach().requires_grad_()
        quantized, _, loss = peer(x)
        (quantized.sum() + loss).backward()

    work = f"quantizer step (forward, backward, moving averages), {num} tokens of {dim}-d, K={num_codes}"
    evaluated, peer_evaluated = copy.deepcopy(quantizer).eval(), peer_of(codebook).eval()
    with torch.no_grad():
        quantizer_time, peer_time = interleaved(
            [lambda: evaluated(latents), lambda: peer_evaluated(tokens)], repeats
        )
    record(
        "search",
        work=f"quantizer forward in evaluation mode, {num} tokens of {dim}-d, K={num_codes}",
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
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
) -> None:
    """Compare searches on three shapes (typical, wide, many narrow codes), and steps on the first."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if Peer is None:
        print(f"{PEER} is not installed: run `make peers` to include it.")
    for name in SHAPES:
        with torch.no_grad():
            compare(name, repeats, threads)
    compare_steps(repeats, threads)


if __name__ == "__main__":
    typer.run(main)
