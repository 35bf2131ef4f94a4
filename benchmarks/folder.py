"""`smalti encode` of a folder of JPEG files beside the bare network on decoded tensors.

The command is timed whole: its start, reading and decoding, the network, the search, and writing the table.
What it is held against is the bare network, signals to codes, in this process, over tensors that are in
memory: a quarter as many, its time taken four times; and the encoder alone, without the search for codes.
All keep freed memory and have the same number of threads of torch; the command decodes on further threads,
one for each core. The files are made here. Run as `python benchmarks/folder.py`; about five minutes.
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
"""Of the bare network's rate, asked for."""


def make_pictures(directory: Path, num: int) -> None:
    """Smooth colour noise, JPEG of quality 90."""
    rng = np.random.default_rng(0)
    for index in range(num):
        coarse = rng.integers(0, 256, (SIDE // COARSE, SIDE // COARSE, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        smooth.save(directory / f"{index:05}.jpg", quality=90)


def run(*arguments: str, threads: int) -> Time:
    """One command of ours, whole."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return timed_command([sys.executable, "-m", "smalti", *arguments, "--quiet"], environment)


def main(
    repeats: Annotated[int, typer.Option(help="Timed runs of each, in turn.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    num: Annotated[int, typer.Option(help="Pictures.")] = 10_000,
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
            "the bare network, signals to codes, on tensors in memory": tokenizer.autoencoder.encode,
            "the bare encoder on tensors in memory": tokenizer.autoencoder.encoder,
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
            work=f"smalti encode of {num} JPEG files of {SIDE}x{SIDE}, recipe image, start to finish",
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
