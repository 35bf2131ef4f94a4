"""Sampling from a WaveNet, compared with the package `wavenet_vocoder`, plain cached steps and full forwards.

The network has 30 layers (3 stacks of 10), 64 residual, 64 gated (128 before the gate) and 64 skip channels,
kernel 2 and 256 symbols, without conditions. All have the same weights, and the package's logits must equal
smalti's before timing. They are timed in alternation in one process. Slow alternatives generate fewer symbols
(a full forward pass over the receptive field counts as one symbol), and their time is scaled up.

Run as `.venv-peers/bin/python benchmarks/wavenet.py` after `make peers`; takes about four minutes.
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
"""Target speed-up over the unmodified package, by number of sequences."""
TOLERANCE = 1e-5
"""Maximum difference between the package's logits and smalti's."""


@dataclass(frozen=True)
class Contender:
    """A way of sampling.

    Attributes:
        name: its name in the records.
        draw: the timed call.
        drawn: number of symbols per call, over all sequences.
        packages: packages whose versions to record.
        more: additional fields of its records.
        target: target speed-up of smalti over it.
    """

    name: str
    draw: Callable[[], object]
    drawn: int
    packages: tuple[str, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)
    target: int | None = None


def peer_of(network: WaveNet, fast: bool = False) -> Any:
    """Build the package's network with the weights of a smalti network.

    An operation per layer that smalti lacks, a scaling of the skips, is disabled (`legacy`).

    Args:
        network: smalti's network.
        fast: fold the weight norm into the weights (`make_generation_fast_`), an opt-in of the package.
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
        # The package scales the residual stream by sqrt(1/2) in each layer: layer l has a factor 2^(-l/2).
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
    """Return outputs `(B, K, T)` of the package's cached step, teacher-forced on sequences `(B, 1, T)`."""
    given = one_hot(codes.squeeze(1), NUM_CODES).float()
    before = torch.cat([torch.zeros_like(given[:, :1]), given[:, :-1]], 1)  # smalti also starts from zeros
    return peer.incremental_forward(test_inputs=before, T=codes.shape[2], softmax=softmax, quantize=False)


def difference(network: WaveNet, peer: Any) -> float:
    """Return the largest difference of the package's stepped logits from smalti's forward and compiled loop.

    It is computed along a sequence sampled by the loop, longer than the receptive field.
    """
    assert peer.receptive_field == network.reach, (peer.receptive_field, network.reach)
    length = network.reach + 10
    kernel: Any = network.kernel(network.start(1, (length,)))
    codes = torch.from_numpy(kernel.draw(torch.rand(length, 1).numpy())).t().unsqueeze(1)
    theirs = forced(peer, codes, softmax=False)
    forward = network(codes).squeeze(1).transpose(1, 2)
    last = torch.from_numpy(kernel.logits)
    largest = max(float((theirs - forward).abs().max()), float((theirs[..., -1] - last).abs().max()))
    assert largest < TOLERANCE, f"expected equal logits, received a difference of {largest}"
    return largest


def peers(network: WaveNet, lines: tuple[int, ...], length: int) -> dict[int, list[Contender]]:
    """Return the package's ways of sampling by number of sequences; none if it is not installed."""
    if Peer is None:
        print("wavenet_vocoder is not installed: run `make peers` to include it.")
        return {count: [] for count in lines}
    peer, fast = peer_of(network), peer_of(network, fast=True)
    differ = {"logits_differ": max(difference(network, peer), difference(network, fast))}

    def contender(
        name: str, draw: Callable[[], object], drawn: int = length, target: int | None = None
    ) -> Contender:
        return Contender(f"wavenet_vocoder, {name}", draw, drawn, ("wavenet_vocoder",), differ, target)

    def one(name: str, peer: Any, target: int | None = None) -> Contender:
        return contender(name, lambda: peer.incremental_forward(T=length), target=target)

    # The package samples one sequence at a time. On several it supports only teacher forcing, which is faster
    # than sampling would be, so it is included as a bound.
    def together(count: int) -> Contender:
        codes = torch.randint(NUM_CODES, (count, 1, length))
        name = f"{count} sequences at once, weight norm folded, teacher-forced"
        return contender(name, lambda: forced(fast, codes, softmax=True), count * length)

    return {
        count: [one("unmodified", peer, TARGETS[count]), one("weight norm folded", fast)]
        if count == 1
        else [one("one sequence at a time", peer, TARGETS[count]), together(count)]
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
    """Time smalti and all alternatives on a number of sequences, and record the comparisons."""
    codes = torch.randint(NUM_CODES, (lines, 1, network.reach))
    ours = Contender("ours", lambda: sample(network, lines, (samples,)), lines * samples)
    others = [
        *others,
        # A custom draw function selects the plain loop.
        Contender(
            "plain cached step",
            lambda: sample(network, lines, (slow,), draw=lambda logits, _: draw_codes(logits)),
            lines * slow,
        ),
        Contender("full forward per symbol", lambda: network(codes), lines),
    ]
    contenders = [ours, *others]
    times = interleaved([contender.draw for contender in contenders], repeats)
    own, *theirs = (time.times(1 / each.drawn) for each, time in zip(contenders, times, strict=True))
    total = lines * samples
    for other, time in zip(others, theirs, strict=True):
        record(
            "wavenet",
            work=f"sample {lines} sequence{'s' * (lines > 1)} of {samples} symbols, K={NUM_CODES}, WaveNet, "
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
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    samples: Annotated[
        int, typer.Option(min=WORTH_COMPILING, help="Symbols per sequence for smalti.")
    ] = 16_000,
    slow: Annotated[int, typer.Option(help="Symbols per sequence for slow alternatives.")] = 1_000,
) -> None:
    """Compare on one sequence and on four."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = CONFIG.build(NUM_CODES).eval()
    for lines, others in peers(network, (1, 4), slow).items():
        compare(network, others, lines, samples, slow, repeats)


if __name__ == "__main__":
    typer.run(main)
