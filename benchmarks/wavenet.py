"""Sampling from a WaveNet: ours beside the package `wavenet_vocoder`, a plain cached step and full forwards.

The network has 30 layers (3 stacks of 10), 64 residual, 64 gated (128 before the gate) and 64 skip channels,
kernel 2 and 256 symbols, without conditions. All hold the same weights, and before anything is timed the
peer's logits must be ours. They are timed in turn in one process; what is slow draws fewer symbols (a full
forward over all that the network sees counts as one), and its time is scaled to as many as ours draws.

Run as `.venv-peers/bin/python benchmarks/wavenet.py`, about four minutes; `make peers` makes it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import typer
from record import record
from timing import interleaved
from torch import Tensor
from torch.nn.functional import one_hot

from smalti.autoregressive.sampling import draw_codes, sample
from smalti.autoregressive.wavenet import WORTH_COMPILING, WaveNet, WaveNetConfig

try:
    from wavenet_vocoder import WaveNet as Peer
except ModuleNotFoundError:
    Peer = None

CONFIG = WaveNetConfig(
    channels=64, gate_channels=64, skip_channels=64, head_channels=64, kernel_size=2, layers=10, stacks=3
)
NUM_CODES = 256
LAYERS = CONFIG.layers * CONFIG.stacks
TARGETS = {1: 55, 4: 100}
"""Target speed-up over the unmodified package, by the number of lines."""
TOLERANCE = 1e-5
"""Maximum difference between the peer's logits and ours."""


@dataclass(frozen=True)
class Contender:
    """A way of sampling.

    Attributes:
        name: what it is called in the records.
        draw: what is timed.
        drawn: symbols that a call draws, on all lines together.
        packages: whose versions belong to it.
        more: further fields of its records.
        target: how many times its rate is asked for.
    """

    name: str
    draw: Callable[[], object]
    drawn: int
    packages: tuple[str, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)
    target: int | None = None


def peer_of(network: WaveNet, fast: bool = False) -> Any:
    """The peer's network with the weights of ours.

    One operation per layer that ours lacks, a scaling of the skips, is disabled (`legacy`).

    Args:
        network: ours.
        fast: fold the weight norm into the weights (`make_generation_fast_`), which its user must ask for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch has a newer weight norm
        peer = Peer(
            out_channels=NUM_CODES,
            layers=LAYERS,
            stacks=CONFIG.stacks,
            residual_channels=CONFIG.channels,
            gate_channels=2 * CONFIG.gate_channels,
            skip_out_channels=CONFIG.skip_channels,
            kernel_size=CONFIG.kernel_size,
            legacy=False,
        ).eval()
    assign(peer.first_conv, network.embedding.weight.t(), torch.zeros(CONFIG.channels))
    for depth, (layer, theirs) in enumerate(zip(network.layers, peer.conv_layers, strict=True)):
        # Each of its layers multiplies the stream by sqrt(1/2): layer l reads 2^(-l/2) of what ours reads.
        scale = math.sqrt(0.5) ** depth
        residual, skip = layer.out.weight.split(layer.split)
        residual_bias, skip_bias = layer.out.bias.split(layer.split)
        assign(theirs.conv, layer.dilated.conv.weight / scale, layer.dilated.conv.bias)
        assign(theirs.conv1x1_out, residual * scale, residual_bias * scale)
        assign(theirs.conv1x1_skip, skip, skip_bias)
    assign(peer.last_conv_layers[1], network.hidden.weight, network.hidden.bias)
    assign(peer.last_conv_layers[3], network.logit.weight, network.logit.bias)
    if fast:
        peer.make_generation_fast_()
    return peer


def assign(conv: Any, weight: Tensor, bias: Tensor) -> None:
    """Set a convolution under weight norm, w = g v / |v|, to a kernel `(O, I)` or `(O, I, taps)`."""
    conv.weight_v.copy_(weight.reshape(conv.weight_v.shape))
    conv.weight_g.copy_(weight.flatten(1).norm(dim=1).reshape(conv.weight_g.shape))
    conv.bias.copy_(bias)


def forced(peer: Any, codes: Tensor, softmax: bool) -> Tensor:
    """Outputs `(B, K, T)` of the peer's cached step, teacher-forced on lines `(B, 1, T)`."""
    given = one_hot(codes.squeeze(1), NUM_CODES).float()
    before = torch.cat([torch.zeros_like(given[:, :1]), given[:, :-1]], 1)  # before the first: zeros, as ours
    return peer.incremental_forward(test_inputs=before, T=codes.shape[2], softmax=softmax, quantize=False)


def difference(network: WaveNet, peer: Any) -> float:
    """The largest difference of the peer's stepped logits from those of our forward and our compiled loop.

    It is taken along a line that is drawn by the loop and longer than what the network sees.
    """
    assert peer.receptive_field == network.reach, (peer.receptive_field, network.reach)
    length = network.reach + 10
    kernel: Any = network.kernel(network.start(1, (length,)))
    codes = torch.from_numpy(kernel.draw(torch.rand(length, 1).numpy())).t().unsqueeze(1)
    theirs = forced(peer, codes, softmax=False)
    forward = network(codes).squeeze(1).transpose(1, 2)
    last = torch.from_numpy(kernel.logits)
    largest = max(float((theirs - forward).abs().max()), float((theirs[..., -1] - last).abs().max()))
    assert largest < TOLERANCE, f"expected the peer's logits to be ours, received a difference of {largest}"
    return largest


def peers(network: WaveNet, lines: tuple[int, ...], length: int) -> dict[int, list[Contender]]:
    """The package, in the ways in which it can draw, for each number of lines; nothing where it is absent."""
    if Peer is None:
        print("wavenet_vocoder is not installed: run `make peers` to compare with it.")
        return {count: [] for count in lines}
    peer, fast = peer_of(network), peer_of(network, fast=True)
    differ = {"logits_differ": max(difference(network, peer), difference(network, fast))}

    def contender(
        name: str, draw: Callable[[], object], drawn: int = length, target: int | None = None
    ) -> Contender:
        return Contender(f"wavenet_vocoder, {name}", draw, drawn, ("wavenet_vocoder",), differ, target)

    def one(name: str, peer: Any, target: int | None = None) -> Contender:
        return contender(name, lambda: peer.incremental_forward(T=length), target=target)

    # It can draw one line only. On more it can but follow symbols that are given: that is faster than a
    # version of it that could draw, so ours is held against that, too.
    def together(count: int) -> Contender:
        codes = torch.randint(NUM_CODES, (count, 1, length))
        name = f"{count} lines at once, weight norm folded, not drawing"
        return contender(name, lambda: forced(fast, codes, softmax=True), count * length)

    return {
        count: [one("as it is", peer, TARGETS[count]), one("weight norm folded", fast)]
        if count == 1
        else [one("line after line", peer, TARGETS[count]), together(count)]
        for count in lines
    }


def compare(
    network: WaveNet,
    others: list[Contender],
    lines: int,
    samples: int,
    slow: int,
    repeats: int,
) -> None:
    """Time ours and all others on a number of lines, and record it."""
    codes = torch.randint(NUM_CODES, (lines, 1, network.reach))
    ours = Contender("ours", lambda: sample(network, lines, (samples,)), lines * samples)
    others = [
        *others,
        # Whoever brings a draw of their own gets the plain loop.
        Contender(
            "plain cached step",
            lambda: sample(network, lines, (slow,), draw=lambda logits, _: draw_codes(logits)),
            lines * slow,
        ),
        Contender("naive full forward", lambda: network(codes), lines),
    ]
    contenders = [ours, *others]
    times = interleaved([contender.draw for contender in contenders], repeats)
    own, *theirs = (time.times(1 / each.drawn) for each, time in zip(contenders, times, strict=True))
    total = lines * samples
    for other, time in zip(others, theirs, strict=True):
        record(
            "wavenet",
            work=f"sample {lines} line{'s' * (lines > 1)} of {samples} symbols, K={NUM_CODES}, WaveNet, "
            f"{LAYERS} layers, {CONFIG.channels}/{2 * CONFIG.gate_channels}/{CONFIG.skip_channels} channels, "
            f"kernel {CONFIG.kernel_size}",
            peer=other.name,
            threads=torch.get_num_threads(),
            ours=own.times(total),
            theirs=time.times(total),
            packages=other.packages,
            benchmark=f"wavenet-{lines}",
            target=other.target,
            ours_samples_per_second=1 / own.wall,
            theirs_samples_per_second=1 / time.wall,
            theirs_drawn=other.drawn,
            repeats=repeats,
            **other.more,
        )


@torch.no_grad()
def main(
    repeats: Annotated[int, typer.Option(help="Timed runs of each, in turn.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    samples: Annotated[
        int, typer.Option(min=WORTH_COMPILING, help="Symbols of a line, drawn by ours.")
    ] = 16_000,
    slow: Annotated[int, typer.Option(help="Symbols of a line, drawn by what is slow.")] = 1_000,
) -> None:
    """Compare on one line and on four."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = CONFIG.build(NUM_CODES).eval()
    for lines, others in peers(network, (1, 4), slow).items():
        compare(network, others, lines, samples, slow, repeats)


if __name__ == "__main__":
    typer.run(main)
