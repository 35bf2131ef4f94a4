"""`smalti train` beside busy neighbours, with the tool's choice of OpenMP threads and without it.

The same command trains a small model on generated pictures, alone and beside processes that keep the
processors busy. Without the choice, the application is started directly and the OpenMP runtime uses its
defaults: waiting threads spin. The environment's own OpenMP settings are removed for both. Run as
`python benchmarks/busy.py`; takes about half an hour on two cores, most of it without the choice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from record import record
from timing import Time, medians, timed_command

SIDE = 32
WITH = [sys.executable, "-m", "smalti"]
WITHOUT = [sys.executable, "-c", "from smalti.app.cli import app; app()"]
NEIGHBOUR = [sys.executable, "-c", "while True: pass"]
RUNTIME = ("OMP_", "GOMP_", "KMP_", "MKL_")


@contextmanager
def neighbours(num: int) -> Iterator[None]:
    """Keep `num` processors busy."""
    running = [subprocess.Popen(NEIGHBOUR) for _ in range(num)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    threads: Annotated[int, typer.Option(help="Value in the record: processors that both may use.")] = (
        os.cpu_count() or 1
    ),
    steps: Annotated[int, typer.Option(help="Training steps of a command.")] = 20,
    num: Annotated[int, typer.Option(help="Number of pictures.")] = 600,
    only: Annotated[int | None, typer.Option(help="Busy processes. Default: three numbers.")] = None,
) -> None:
    """Train the recipe `image` beside no, one and three busy processes per processor."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(RUNTIME)}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        words = ["demo", "--write-images", str(root / "pictures"), "--num", str(num), "--quiet"]
        subprocess.run([*WITH, *words], check=True, env=environment)

        def train(command: list[str], name: str) -> Time:
            words = ["train", "image", "--data", str(root / "pictures"), "--out", str(root / name)]
            settings = [f"size={SIDE}", f"training.steps={steps}", "--quiet"]
            return timed_command([*command, *words, *settings], environment)

        for busy in (0, threads, 3 * threads) if only is None else (only,):
            rounds = []
            with neighbours(busy):
                for at in range(repeats):
                    ours = train(WITH, f"with-{busy}-{at}")
                    rounds.append([ours, train(WITHOUT, f"without-{busy}-{at}")])
            ours, theirs = medians(rounds)
            record(
                "busy",
                work=f"smalti train, recipe image, {SIDE}x{SIDE}, {steps} steps, {busy} busy neighbours",
                peer="default OpenMP settings",
                threads=threads,
                ours=ours,
                theirs=theirs,
                benchmark="busy-neighbours",
                neighbours=busy,
                repeats=repeats,
            )


if __name__ == "__main__":
    typer.run(main)
