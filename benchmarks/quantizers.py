"""Quantizers compared with those of the package `vector-quantize-pytorch` in one process.

Each step is forward and backward in training mode at 65,536 tokens, or where the package builds a table of
tokens x codes (LFQ and BSQ at 18 bits: 2^18 numbers per token, several times), at as many tokens as the
package can hold; smalti is also timed at 65,536 tokens then. The package has BSQ as LFQ on the sphere.

Each record states the share of the tokens whose latents differ from the package's (at the boundary of two
levels rounding may decide), and the peak memory of smalti's step at 65,536 tokens. The losses of LFQ differ
at 18 bits, where smalti's entropy of the batch is that of two groups of 9 bits. Quantizers with a codebook
are compared in evaluation mode after both have the same codes; their steps include the moving averages,
without data-dependent initialisation and revival.

Run as `.venv-peers/bin/python benchmarks/quantizers.py`; takes about two minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from memory import resident_kib
from record import record
from timing import Work, interleaved
from torch import Tensor

from smalti.core.parts import Quantizer
from smalti.quantizers.bsq import BSQ
from smalti.quantizers.codebooks.ema import EMACodebookConfig
from smalti.quantizers.fsq import FSQ
from smalti.quantizers.lfq import LFQ
from smalti.quantizers.residual import ResidualVQ
from smalti.quantizers.residual_fsq import ResidualFSQ
from smalti.quantizers.vq import VectorQuantizer

try:
    import vector_quantize_pytorch as peers
except ModuleNotFoundError:
    peers = None

PEER = "vector-quantize-pytorch"
NUM_TOKENS, FEW_TOKENS, SIDE = 65_536, 256, 32
LEVELS = (9, 9, 9, 9)
STAGES = 4
DIM, NUM_CODES = 64, 512
VQ_STAGES = 8
EMA = EMACodebookConfig(data_init=False, revive_after=0)


@dataclass(frozen=True)
class Case:
    """A quantizer and the package's.

    Attributes:
        work: description of the quantizer.
        ours, theirs: make the modules.
        num_tokens: tokens that the package can hold.
        target: wanted ratio.
        has_loss: whether the package also returns a loss.
        equalise: gives the package's module the codes of ours; None for quantizers without a codebook.
    """

    work: str
    ours: Callable[[], Quantizer]
    theirs: Callable[[], Any]
    num_tokens: int = NUM_TOKENS
    target: float = 1.0
    has_loss: bool = False
    equalise: Callable[[Any, Any], None] | None = None


def equalise_vq(ours: Any, theirs: Any) -> None:
    """Copy the codes of `VectorQuantizer`; the package stores unit vectors."""
    _, codes = ours.matching.compared(ours.codebook.codes, ours.codebook.codes)
    theirs._codebook.embed.data.copy_(codes)


def equalise_residual(ours: Any, theirs: Any) -> None:
    """Copy the codes of all stages."""
    for codebook, layer in zip(ours.codebooks, theirs.layers, strict=True):
        layer._codebook.embed.data.copy_(codebook.codes)


def equalise_simvq(ours: Any, theirs: Any) -> None:
    """Copy basis and matrix, which the package multiplies from the other side."""
    theirs.frozen_codebook.copy_(ours.codebook.basis[0])
    theirs.code_transform.weight.data.copy_(ours.codebook.weight[0].t())


CASES = {
    "fsq": Case(
        f"FSQ, {'x'.join(map(str, LEVELS))} levels",
        lambda: FSQ(LEVELS, channel_last=True),
        lambda: peers.FSQ(levels=list(LEVELS)),
    ),
    "residual-fsq": Case(
        f"residual FSQ, {STAGES} stages of {'x'.join(map(str, LEVELS))} levels",
        lambda: ResidualFSQ(LEVELS, STAGES, channel_last=True),
        lambda: peers.ResidualFSQ(levels=list(LEVELS), num_quantizers=STAGES),
    ),
    "lfq-10": Case(
        "LFQ, 10 bits",
        lambda: LFQ(10, group_bits=10, entropy_anneal_steps=0, channel_last=True),
        lambda: peers.LFQ(dim=10, commitment_loss_weight=0.25),
        has_loss=True,
    ),
    "lfq-18": Case(
        "LFQ, 18 bits",
        lambda: LFQ(18, entropy_anneal_steps=0, channel_last=True),
        lambda: peers.LFQ(dim=18, commitment_loss_weight=0.25),
        num_tokens=FEW_TOKENS,
        target=3.0,
        has_loss=True,
    ),
    "bsq-18": Case(
        "BSQ, 18 bits",
        lambda: BSQ(18, entropy_anneal_steps=0, temperature=0.01, channel_last=True),
        lambda: peers.LFQ(dim=18, spherical=True),
        num_tokens=FEW_TOKENS,
        target=3.0,
        has_loss=True,
    ),
    "residual-vq": Case(
        f"residual VQ, {VQ_STAGES} stages of {NUM_CODES} codes of {DIM}-d, moving averages",
        lambda: ResidualVQ(DIM, NUM_CODES, VQ_STAGES, codebook=EMA, channel_last=True),
        lambda: peers.ResidualVQ(dim=DIM, codebook_size=NUM_CODES, num_quantizers=VQ_STAGES, decay=0.99),
        target=5.0,
        has_loss=True,
        equalise=equalise_residual,
    ),
    "vq-unit": Case(
        f"VQ on the unit sphere, {NUM_CODES} codes of 8-d, moving averages",
        lambda: VectorQuantizer(8, NUM_CODES, codebook=EMA, normalize="codes", channel_last=True),
        lambda: peers.VectorQuantize(dim=8, codebook_size=NUM_CODES, decay=0.99, use_cosine_sim=True),
        has_loss=True,
        equalise=equalise_vq,
    ),
    "simvq": Case(
        f"SimVQ, {NUM_CODES} codes of {DIM}-d, rotation trick",
        lambda: VectorQuantizer(DIM, NUM_CODES, codebook="simvq", gradient="rotation", channel_last=True),
        lambda: peers.SimVQ(dim=DIM, codebook_size=NUM_CODES),
        has_loss=True,
        equalise=equalise_simvq,
    ),
}


def tokens(num: int, dim: int) -> Tensor:
    """Return latents `(B, N, D)` of normally distributed values."""
    return torch.randn(num // SIDE, SIDE, dim, generator=torch.Generator().manual_seed(0))


def step(quantizer: Quantizer, latents: Tensor) -> Work:
    """Return a work that does forward and backward."""

    def work() -> None:
        x = latents.detach().requires_grad_()
        quantized = quantizer(x)
        (quantized.latents.sum() + quantized.loss).backward()

    return work


def peer_step(peer: Any, latents: Tensor, has_loss: bool) -> Work:
    """Return the same work of the package."""

    def work() -> None:
        x = latents.detach().requires_grad_()
        quantized, _, *losses = peer(x)
        (quantized.sum() + (losses[0].sum() if has_loss else 0)).backward()

    return work


def differing(quantizer: Quantizer, peer: Any, latents: Tensor) -> float:
    """Share of the tokens with other latents."""
    with torch.no_grad():
        ours, theirs = quantizer(latents).latents, peer(latents)[0]
    return ((ours - theirs).abs().amax(-1) > 1e-4).float().mean().item()


def print_peak(name: str) -> None:
    """Print the peak memory of smalti's step at 65,536 tokens above what the latents take, in MiB."""
    torch.set_num_threads(1)
    quantizer = CASES[name].ours().train()
    step(quantizer, tokens(SIDE, quantizer.dim))()
    work = step(quantizer, tokens(NUM_TOKENS, quantizer.dim))
    Path("/proc/self/clear_refs").write_text("5")  # resets the recorded peak
    before = resident_kib("VmRSS")
    work()
    print((resident_kib("VmHWM") - before) / 1024)


def peak_mib(name: str) -> float:
    """Run `print_peak` in its own process, which returns large blocks to the system immediately."""
    command = [sys.executable, __file__, "--peak", name]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(ran.stdout)


def losses(quantizer: Quantizer, peer: Any, latents: Tensor) -> tuple[float, float]:
    """Loss of each module on the same latents."""
    with torch.no_grad():
        return quantizer(latents).loss.item(), float(peer(latents)[2].sum())


def compare(name: str, repeats: int, threads: int) -> None:
    """Time a quantizer and the package's."""
    case = CASES[name]
    quantizer, peer = case.ours().train(), case.theirs().train()
    few, many = (tokens(num, quantizer.dim) for num in (case.num_tokens, NUM_TOKENS))
    own, theirs, own_many = interleaved(
        [step(quantizer, few), peer_step(peer, few, case.has_loss), step(quantizer, many)], repeats
    )
    if case.equalise is not None:
        case.equalise(quantizer.eval(), peer.eval())
    record(
        "quantizers",
        work=f"quantizer step (forward and backward), {case.num_tokens} tokens, {case.work}",
        peer=PEER,
        threads=threads,
        ours=own.times(1e3),
        theirs=theirs.times(1e3),
        unit="ms",
        packages=(PEER,),
        benchmark=f"quantizer-{name}",
        target=case.target,
        losses=losses(quantizer, peer, few) if case.has_loss and case.equalise is None else None,
        differing=differing(quantizer, peer, few),
        ours_ms_at_65536=own_many.wall * 1e3,
        ours_temporary_mib_at_65536=peak_mib(name),
        repeats=repeats,
    )


def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    only: Annotated[str | None, typer.Option(help="Name of one case.")] = None,
    peak: Annotated[str | None, typer.Option(help="Only print the memory of one case.")] = None,
) -> None:
    """Compare forward and backward of each quantizer."""
    if peak is not None:
        print_peak(peak)
        return
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if peers is None:
        print(f"{PEER} is not installed: run `make peers` to compare with it.")
        return
    for name in [only] if only else CASES:
        compare(name, repeats, threads)


if __name__ == "__main__":
    typer.run(main)
