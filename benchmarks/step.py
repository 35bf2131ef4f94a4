"""Training step of a VQ-VAE, compared with the same network and the quantizer of the package `pythae`.

64 pictures of 32x32, 128 channels, two residual blocks of 32, K = 512, D = 64, moving averages, squared
error, fused Adam. The alternatives use the same network in plain PyTorch with the same weights: with the
package's quantizer, and with a plain quantizer, uncompiled and compiled. Each has its own process, and they
alternate. smalti keeps freed memory, as `smalti train` does, which is a setting of the whole process; one
variant of the package keeps it as well. The last comparisons are with lower bounds: the time of the network's
products at the machine's best rates.

First, smalti and the package train on letters from equal weights and codes; their losses must agree.

Run as `.venv-peers/bin/python benchmarks/step.py`; takes about two minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, cast

import torch
import typer
from curves import agreeing
from record import record
from timing import Work, bound_works, bounds, in_processes, interleaved
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss
from torch.utils.flop_counter import FlopCounterMode

from smalti.app.letters import LettersSource
from smalti.core.allocator import keep_freed_memory
from smalti.decoders.conv import ConvDecoder
from smalti.encoders.conv import ConvEncoder
from smalti.quantizers.codebooks.ema import EMACodebook, EMACodebookConfig
from smalti.quantizers.vq import VectorQuantizer

try:
    from pythae.models import VQVAEConfig as PeerConfig
    from pythae.models.vq_vae.vq_vae_utils import QuantizerEMA as Peer
except ModuleNotFoundError:
    Peer = None

BATCH, SIDE, CHANNELS, RESIDUAL, NUM_CODES, DIM = 64, 32, 128, 32, 512, 64
LEARNING_RATE, DECAY, EPSILON, COMMITMENT = 3e-4, 0.99, 1e-5, 0.25
TARGET = 1.4
CURVE_STEPS = 100
"""Steps of the learning curves."""

Loss = Callable[[Tensor], Tensor]


class Ours(nn.Module):
    """smalti's encoder, quantizer and decoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = ConvEncoder(3, DIM, channels=CHANNELS, residual_channels=RESIDUAL)
        self.decoder = ConvDecoder(DIM, 3, channels=CHANNELS, residual_channels=RESIDUAL)
        codebook = EMACodebookConfig(decay=DECAY, epsilon=EPSILON)
        self.quantizer = VectorQuantizer(DIM, NUM_CODES, commitment_weight=COMMITMENT, codebook=codebook)

    def forward(self, x: Tensor) -> Tensor:
        quantized = self.quantizer(self.encoder(x))
        return mse_loss(self.decoder(quantized.latents), x) + quantized.loss


class PlainBlock(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, RESIDUAL, 3, padding=1)
        self.second = nn.Conv2d(RESIDUAL, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x.relu()).relu())


class Plain(nn.Module):
    """The same network in plain PyTorch.

    Args:
        quantizer: maps latents `(B, h, w, D)` to quantized latents of the same shape and a loss.
    """

    def __init__(self, quantizer: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, CHANNELS, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 4, 2, 1),
            PlainBlock(),
            PlainBlock(),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, DIM, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(DIM, CHANNELS, 3, padding=1),
            PlainBlock(),
            PlainBlock(),
            nn.ReLU(),
            nn.ConvTranspose2d(CHANNELS, CHANNELS, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(CHANNELS, 3, 4, 2, 1),
        )
        ours = Ours()
        for parameter, same in zip(
            [*self.encoder.parameters(), *self.decoder.parameters()],
            [*ours.encoder.parameters(), *ours.decoder.parameters()],
            strict=True,
        ):
            parameter.data.copy_(same)
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        latents, loss = self.quantizer(self.encoder(x).permute(0, 2, 3, 1))
        return mse_loss(self.decoder(latents.permute(0, 3, 1, 2)), x) + loss


class PlainQuantizer(nn.Module):
    """EMA quantizer in plain PyTorch: all distances, argmin, look-up."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randn(NUM_CODES, DIM))
        self.register_buffer("counts", torch.ones(NUM_CODES))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        flat = z.reshape(-1, DIM)
        with torch.no_grad():
            indices = torch.addmm(self.codes.square().sum(1), flat, self.codes.t(), alpha=-2).argmin(1)
            chosen = embedding(indices, self.codes).view_as(z)
            ones = torch.ones_like(indices, dtype=flat.dtype)
            counts = torch.zeros(NUM_CODES).index_add_(0, indices, ones)
            sums = torch.zeros(NUM_CODES, DIM).index_add_(0, indices, flat)
            self.counts.mul_(DECAY).add_(counts, alpha=1 - DECAY)
            self.sums.mul_(DECAY).add_(sums, alpha=1 - DECAY)
            self.codes.copy_(self.sums / (self.counts + EPSILON).unsqueeze(1))
        return z + (chosen - z).detach(), COMMITMENT * mse_loss(z, chosen)


class PeerQuantizer(nn.Module):
    """EMA quantizer of the package `pythae`."""

    def __init__(self) -> None:
        super().__init__()
        config = PeerConfig(
            input_dim=(3, SIDE, SIDE), latent_dim=DIM, num_embeddings=NUM_CODES, use_ema=True, decay=DECAY
        )
        config.commitment_loss_factor = COMMITMENT
        config.embedding_dim = DIM  # pyright: ignore[reportAttributeAccessIssue]  its model sets it
        torch.manual_seed(0)
        self.inner = cast("Any", Peer)(config)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        made = self.inner(z)
        return made["quantized_vector"].permute(0, 2, 3, 1), made["loss"]


def pictures() -> Tensor:
    """Return pictures of letters in [0, 1], `(N, 3, 32, 32)`."""
    source = LettersSource(num_train=1_000, num_test=0, image_size=SIDE)
    stored = torch.stack([torch.from_numpy(item.content) for item in source.items("train")])
    return stored.movedim(3, 1).float() / 255


def stepping(model: nn.Module, loss: Loss | None = None) -> Work:
    """Return a work that does one training step on a batch."""
    x = pictures()[:BATCH]
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
    of_batch = model if loss is None else loss

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        of_batch(x).backward()
        optimizer.step()

    return step


def ours() -> Work:
    keep_freed_memory()
    return stepping(Ours())


def theirs() -> Work:
    return stepping(Plain(PeerQuantizer()))


def theirs_that_keep() -> Work:
    keep_freed_memory()
    return theirs()


def plain() -> Work:
    return stepping(Plain(PlainQuantizer()))


def plain_compiled() -> Work:
    model = Plain(PlainQuantizer())
    return stepping(model, torch.compile(model))


def forward_and_backward_flop() -> int:
    """Count the operations of the network's convolutions, without the quantizer."""
    model, x = Ours(), torch.zeros(BATCH, 3, SIDE, SIDE)
    with FlopCounterMode(display=False) as counter:
        mse_loss(model.decoder(model.encoder(x)), x).backward()
    return counter.get_total_flops()


def curves() -> dict[str, object]:
    """Compare the losses of smalti and the package with equal weights, codes, averages and batches."""
    peer = PeerQuantizer()
    same = Ours()
    codebook = same.quantizer.codebook
    assert isinstance(codebook, EMACodebook)
    codebook.codes.copy_(peer.inner.embeddings[None])
    codebook.sums.copy_(peer.inner.ema_embed[None])
    codebook.counts.zero_()
    codebook.step = 1
    # Disable data-dependent initialisation and revival, which the package lacks.
    codebook.config = codebook.config.model_copy(update={"revive_after": 0.0})
    return agreeing({"ours": same, "theirs": Plain(peer)}, pictures(), BATCH, LEARNING_RATE, CURVE_STEPS)


def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 11,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
) -> None:
    """Compare training steps."""
    torch.set_num_threads(threads)
    makers = {"plain PyTorch": plain, "plain PyTorch, compiled": plain_compiled}
    more: dict[str, object] = {}
    name = "same network with pythae's EMA quantizer"
    if Peer is None:
        print("pythae is not installed: run `make peers` to include it.")
    else:
        makers = {name: theirs, f"{name}, freed memory kept": theirs_that_keep, **makers}
        more = curves()
    own, *others = in_processes([ours, *makers.values()], repeats, threads)
    flop = forward_and_backward_flop()
    limits = bounds(interleaved(bound_works(), repeats), flop, threads)
    for peer, other in {**dict(zip(makers, others, strict=True)), **limits}.items():
        record(
            "step",
            work=f"training step, {BATCH} pictures of {SIDE}x{SIDE}, {CHANNELS} channels, 2 residual blocks "
            f"of {RESIDUAL}, K={NUM_CODES}, D={DIM}",
            peer=peer,
            threads=threads,
            ours=own,
            theirs=other,
            packages=("pythae",) if peer == name else (),
            benchmark="step-32",
            target=TARGET if peer == name else None,
            gflop=flop / 1e9,
            repeats=repeats,
            **(more if peer == name else {}),
        )


if __name__ == "__main__":
    typer.run(main)
