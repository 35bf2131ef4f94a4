"""`smalti encode` on a folder of JPEG files, compared with the network alone on decoded tensors.

The whole command is timed: start, reading and decoding, network, code search, and writing the table. It is
compared with the encoder and code search in this process on tensors in memory (a quarter of the items, times
four), and with the encoder without the search. All keep freed memory and use the same number of torch
threads; the command decodes on additional threads, one per core. The files are generated. Run as
`python benchmarks/folder.py`; takes about five minutes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from record import record
from timing import Time, medians, timed, timed_command

import smalti
from smalti.core.allocator import keep_freed_memory

SIDE, BATCH, COARSE = 64, 64, 8
PART = 4
SHARE = 0.8
"""Target rate of the command, as a fraction of the network's."""


def make_pictures(directory: Path, num: int) -> None:
    """Write pictures of smooth colour noise as JPEG of quality 90."""
    rng = np.random.default_rng(0)
    for index in range(num):
        coarse = rng.integers(0, 256, (SIDE // COARSE, SIDE // COARSE, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        smooth.save(directory / f"{index:05}.jpg", quality=90)


def run(*arguments: str, threads: int) -> Time:
    """Time one smalti command, from start to exit."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return timed_command([sys.executable, "-m", "smalti", *arguments, "--quiet"], environment)


def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    num: Annotated[int, typer.Option(help="Number of pictures.")] = 10_000,
) -> None:
    """Train the recipe `image` for two steps, and encode the folder with it."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        pictures, model = root / "pictures", root / "model"
        pictures.mkdir()
        make_pictures(pictures, num)
        settings = (f"size={SIDE}", "training.steps=2")
        run("train", "image", "--data", str(pictures), "--out", str(model), *settings, threads=threads)
        tokenizer = smalti.load(model, device="cpu")
        signals = torch.rand(BATCH, 3, SIDE, SIDE) * 2 - 1

        bare: dict[str, Callable[[torch.Tensor], object]] = {
            "encoder and code search, tensors in memory": tokenizer.autoencoder.encode,
            "encoder alone, tensors in memory": tokenizer.autoencoder.encoder,
        }

        @torch.no_grad()
        def several(network: Callable[[torch.Tensor], object]) -> None:
            for _ in range(num // BATCH // PART):
                network(signals)

        rounds = []
        for at in range(repeats + 1):
            table = str(root / f"codes{at}.parquet")
            command = ("encode", str(model), "--data", str(pictures), "--out", table)
            ours = run(*command, threads=threads)
            rounds.append(
                [ours, *(timed(lambda network=network: several(network)) for network in bare.values())]
            )
        own, *others = medians(rounds[1:])
    for number, (peer, part) in enumerate(zip(bare, others, strict=True)):
        record(
            "folder",
            work=f"smalti encode of {num} JPEG files of {SIDE}x{SIDE}, recipe image, whole command",
            peer=peer,
            threads=threads,
            ours=own,
            theirs=part.times(num / (num // BATCH // PART * BATCH)),
            benchmark="encode-folder",
            target=SHARE if number == 0 else None,
            decoding_threads=os.cpu_count(),
            repeats=repeats,
        )


if __name__ == "__main__":
    typer.run(main)
