"""`smalti encode --shards` under kills: the files are byte for byte those of an undisturbed run.

Small pictures are encoded into shards: once undisturbed, once by a process that is killed at random moments
by SIGKILL and started again, and once by two processes of which one is killed at random each time. The
digests of all files of the three outputs must be equal. Recorded are the seconds of the undisturbed command,
and those of the killed ones until they are complete. Run as `python benchmarks/shards.py`: 100,000 pictures
in 64 shards and 10 kills take about half an hour, `--num 2000 --shards 16` a few minutes.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from record import record
from timing import Time, timed_command

SIDE, PER_FOLDER = 32, 1000


def make_pictures(directory: Path, num: int) -> None:
    """Write pictures of noise as JPEG in folders of a thousand."""
    rng = np.random.default_rng(0)
    for index in range(num):
        path = directory / f"{index // PER_FOLDER:04}" / f"{index:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)


def digests(out: Path) -> dict[str, str]:
    """Digest of every visible file of an output."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(out).parts)
    }


def complete(out: Path) -> int:
    """Number of complete shards."""
    return len(list((out / "manifest").glob("[0-9]*.json")))


def start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)


def killed(
    commands: Sequence[Sequence[str]], out: Path, shards: int, kills: int, most_s: float
) -> tuple[float, list[int]]:
    """Run commands together until all succeed; kill one at a random moment, `kills` times.

    Args:
        commands: share the output.
        out: the output.
        shards: their number.
        kills: number of kills, spread over the progress of the run.
        most_s: longest time from a point of progress to a kill.

    Returns:
        Seconds in all, and the number of complete shards at each kill.
    """
    rng = random.Random(len(commands))
    moments: list[int] = []
    began = time.perf_counter()
    running = [start(words) for words in commands]
    # A restarted process may be killed at once, since the others or its predecessor made the progress.
    for progress in sorted(rng.randrange(shards - 2) for _ in range(kills)):
        while complete(out) < progress:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, most_s))
        alive = [index for index, process in enumerate(running) if process.poll() is None]
        if alive:
            victim = rng.choice(alive)
            os.killpg(running[victim].pid, signal.SIGKILL)
            running[victim].wait()
            moments.append(complete(out))
            running[victim] = start(commands[victim])
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise SystemExit("a process that was not killed has failed")
    return time.perf_counter() - began, moments


def main(
    num: Annotated[int, typer.Option(help="Number of pictures.")] = 100_000,
    shards: Annotated[int, typer.Option(help="Number of shards.")] = 64,
    kills: Annotated[int, typer.Option(help="Number of kills of each run.")] = 10,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
) -> None:
    """Train the recipe `image` for two steps, and encode the pictures with it three times."""
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    smalti = [sys.executable, "-m", "smalti"]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        data, model = root / "pictures", root / "model"
        make_pictures(data, num)
        sizes = ["size=32", "training.steps=2"]
        subprocess.run(
            [*smalti, "train", "image", "--data", data, "--out", model, *sizes, "--quiet"], check=True
        )

        def words(out: str, *more: str) -> list[str]:
            where = ["--data", str(data), "--out", str(root / out)]
            return [*smalti, "encode", str(model), *where, "--shards", str(shards), "--quiet", *more]

        whole = timed_command(words("whole"))
        expected = digests(root / "whole")
        empty = timed_command(words("whole"))  # nothing is left to do
        most_s = max(0.05, (whole.wall - empty.wall) / shards)
        outcomes = {
            "one process": [words("one")],
            "two processes": [words("two", "--shard", "0/2"), words("two", "--shard", "1/2")],
        }
        for (what, commands), out in zip(outcomes.items(), ("one", "two"), strict=True):
            seconds, moments = killed(commands, root / out, shards, kills, most_s)
            is_same = digests(root / out) == expected
            record(
                "shards",
                work=f"smalti encode of {num} JPEG files of {SIDE}x{SIDE} into {shards} shards",
                peer=f"{what}, killed {len(moments)} times by SIGKILL and started again",
                threads=threads,
                ours=whole,
                theirs=Time(seconds, None),
                benchmark="encode-shards",
                complete_shards_at_kills=moments,
                start_s=empty.wall,
                files=len(expected),
                is_byte_for_byte_the_same=is_same,
            )
            if not is_same:
                raise SystemExit(f"{what}: the files differ")
        subprocess.run([*smalti, "verify", root / "two", "--run", model, "--data", data], check=True)


if __name__ == "__main__":
    typer.run(main)
