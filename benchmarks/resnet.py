"""Training step of the recipe-sized residual networks, compared with `VQModel` of the package `diffusers`.

Encoder and decoder `resnet` of size S, 16 pictures of 64x64, K = 512, D = 64, a codebook with gradients,
squared error, fused Adam. The package has the same layers; it is given the same weights, the same groups of
its normalizations and the loss of the paper (its `legacy=False`), and no 1x1 convolutions around the
quantizer. First both train on letters from equal weights: their losses must agree.

Each has its own process, and they alternate. smalti keeps freed memory, as `smalti train` does, and
computes with channels last; variants of the package do so as well. The last comparisons are with lower
bounds: the convolutions of the network alone, and the time of its products at the machine's best rates.

Run as `.venv-peers/bin/python benchmarks/resnet.py`; takes about three minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Annotated, Any, cast

import torch
import typer
from curves import agreeing
from record import record
from timing import Work, bound_works, bounds, in_processes, interleaved
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from smalti.app.letters import LettersSource
from smalti.core.allocator import keep_freed_memory
from smalti.decoders.resnet import ResNetDecoder
from smalti.encoders.resnet import ResNetEncoder
from smalti.quantizers.codebooks.gradient import GradientCodebook
from smalti.quantizers.vq import VectorQuantizer

try:
    from diffusers import VQModel
except ModuleNotFoundError:
    VQModel = None

BATCH, SIDE, NUM_CODES, DIM = 16, 64, 512, 64
WIDTHS, LAYERS = (32, 64, 128), 1
"""Size S: channels at each grid, and residual blocks at each grid of the encoder."""
LEARNING_RATE, COMMITMENT = 3e-4, 0.25
TARGET = 1.1
CURVE_STEPS = 60
"""Steps of the learning curves."""
CONVOLUTIONS = "bound: the convolutions of the network alone"


class Ours(nn.Module):
    """smalti's encoder, quantizer and decoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = ResNetEncoder(3, DIM, size="S")
        self.decoder = ResNetDecoder(DIM, 3, size="S")
        self.quantizer = VectorQuantizer(DIM, NUM_CODES, commitment_weight=COMMITMENT, codebook="gradient")

    def forward(self, x: Tensor) -> Tensor:
        quantized = self.quantizer(self.encoder(x))
        return mse_loss(self.decoder(quantized.latents), x) + quantized.loss


class Theirs(nn.Module):
    """The package's model, with the weights of ours."""

    def __init__(self) -> None:
        super().__init__()
        inner: Any = cast("Any", VQModel)(
            down_block_types=("DownEncoderBlock2D",) * len(WIDTHS),
            up_block_types=("UpDecoderBlock2D",) * len(WIDTHS),
            block_out_channels=WIDTHS,
            layers_per_block=LAYERS,
            latent_channels=DIM,
            num_vq_embeddings=NUM_CODES,
            vq_embed_dim=DIM,
            norm_num_groups=WIDTHS[0] // 4,
        )
        inner.quant_conv = inner.post_quant_conv = nn.Identity()
        inner.quantize.legacy, inner.quantize.beta = False, COMMITMENT
        same = Ours()
        assert isinstance(same.quantizer.codebook, GradientCodebook)
        inner.quantize.embedding.weight.data.copy_(same.quantizer.codebook.codes[0])
        for theirs, ours in zip(
            layers_of(inner), chain(leaves(same.encoder), leaves(same.decoder)), strict=True
        ):
            theirs.load_state_dict(ours.state_dict())
            if isinstance(ours, nn.GroupNorm):
                theirs.num_groups = ours.num_groups
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        reconstruction, loss = self.inner(x, return_dict=False)
        return mse_loss(reconstruction, x) + loss


def leaves(module: nn.Module) -> Iterator[Any]:
    """Return the layers with weights, in order of registration."""
    return (layer for layer in module.modules() if not list(layer.children()) and list(layer.parameters()))


def layers_of(model: Any) -> Iterator[Any]:
    """Return the layers of the package's encoder and decoder, in order of computation."""
    for half, blocks in (
        (model.encoder, model.encoder.down_blocks),
        (model.decoder, model.decoder.up_blocks),
    ):
        middle = half.mid_block
        inside = [middle.resnets[0], middle.attentions[0], middle.resnets[1]]
        parts = [*blocks, *inside] if half is model.encoder else [*inside, *blocks]
        for part in (half.conv_in, *parts, half.conv_norm_out, half.conv_out):
            yield from leaves(part)


def pictures() -> Tensor:
    """Return pictures of letters in [-1, 1], `(N, 3, 64, 64)`."""
    source = LettersSource(num_train=320, num_test=0, image_size=SIDE)
    stored = torch.stack([torch.from_numpy(item.content) for item in source.items("train")])
    return stored.movedim(3, 1).float() / 127.5 - 1


def stepping(model: nn.Module, x: Tensor | None = None) -> Work:
    """Return a work that does one training step on a batch."""
    x = pictures()[:BATCH] if x is None else x
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(x).backward()
        optimizer.step()

    return step


def ours() -> Work:
    keep_freed_memory()
    return stepping(Ours())


def theirs() -> Work:
    return stepping(Theirs())


def theirs_that_keep() -> Work:
    keep_freed_memory()
    return theirs()


def theirs_channels_last() -> Work:
    keep_freed_memory()
    model, x = Theirs().to(memory_format=torch.channels_last), pictures()[:BATCH]
    return stepping(model, x.contiguous(memory_format=torch.channels_last))


def convolutions() -> Work:
    """Return a work that computes each convolution of ours, forwards and backwards, on its own inputs."""
    keep_freed_memory()
    model, calls = Ours(), cast("list[Callable[[], Tensor]]", [])

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Training needs no gradient of the pictures.
        x = inputs[0].detach().requires_grad_(inputs[0].requires_grad)
        gradient = torch.randn_like(output)
        calls.append(lambda: layer(x).backward(gradient))

    hooks = [layer.register_forward_hook(keep) for layer in leaves(model) if isinstance(layer, nn.Conv2d)]
    model(pictures()[:BATCH])
    for hook in hooks:
        hook.remove()

    def work() -> None:
        model.zero_grad(set_to_none=True)
        for call in calls:
            call()

    return work


def forward_and_backward_flop() -> int:
    """Count the operations of the networks, without the quantizer."""
    model, x = Ours(), torch.zeros(BATCH, 3, SIDE, SIDE)
    with FlopCounterMode(display=False) as counter:
        mse_loss(model.decoder(model.encoder(x)), x).backward()
    return counter.get_total_flops()


def curves() -> dict[str, object]:
    """Compare the losses of smalti and the package with equal weights, codes and batches."""
    return agreeing({"ours": Ours(), "theirs": Theirs()}, pictures(), BATCH, LEARNING_RATE, CURVE_STEPS)


def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 11,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
) -> None:
    """Compare training steps."""
    torch.set_num_threads(threads)
    makers: dict[str, Callable[[], Work]] = {CONVOLUTIONS: convolutions}
    more: dict[str, object] = {}
    name = "the same network in diffusers (VQModel)"
    if VQModel is None:
        print("diffusers is not installed: run `make peers` to include it.")
    else:
        makers = {
            name: theirs,
            f"{name}, freed memory kept": theirs_that_keep,
            f"{name}, freed memory kept, channels last": theirs_channels_last,
            **makers,
        }
        more = curves()
    own, *others = in_processes([ours, *makers.values()], repeats, threads)
    flop = forward_and_backward_flop()
    limits = bounds(interleaved(bound_works(), repeats), flop, threads)
    for peer, other in {**dict(zip(makers, others, strict=True)), **limits}.items():
        record(
            "resnet",
            work=f"training step, `resnet` of size S, {BATCH} pictures of {SIDE}x{SIDE}, K={NUM_CODES}",
            peer=peer,
            threads=threads,
            ours=own,
            theirs=other,
            packages=("diffusers",) if peer.startswith(name) else (),
            benchmark="step-resnet",
            target=TARGET if peer.startswith(name) else None,
            gflop=flop / 1e9,
            repeats=repeats,
            **(more if peer == name else {}),
        )


if __name__ == "__main__":
    typer.run(main)
