"""`smalti encode --shards` under kills: the files are byte for byte those of an undisturbed run.

Small pictures are encoded into shards four times: undisturbed; by one process; by two, each with a part of
the shards; and by the actors of a Ray cluster on this machine. Processes of the last three are killed at
random moments by SIGKILL and started again. With Ray, the victims are an actor, which Ray starts again, and
the driver, with which its cluster ends, in turn. The digests of all files of the four outputs must be equal,
and so must their rows. Recorded are the seconds of the undisturbed command, and those of the killed ones
until they are complete. Run as `python benchmarks/shards.py`: 100,000 pictures in 64 shards, 10 kills in all.
`--num 2000 --shards 16` takes a few minutes.
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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from PIL import Image
from record import record
from timing import Time, timed_command

from smalti.data.codes import read_codes

SIDE, PER_FOLDER = 16, 1000
MOST_FAILURES = 3
"""Of drivers on a busy machine, on which Ray's processes do not answer in time."""
WIDTHS = [
    f"{part}.{width}=8" for part in ("encoder", "decoder") for width in ("channels", "residual_channels")
]


def make_pictures(directory: Path, num: int) -> None:
    """Write pictures of coarse noise as PNG in folders of a thousand."""
    rng = np.random.default_rng(0)
    for index in range(num):
        path = directory / f"{index // PER_FOLDER:04}" / f"{index:07}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(path, compress_level=1)


def digests(out: Path) -> dict[str, str]:
    """Digest of every visible file of an output."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(out).parts)
    }


def rows(out: Path) -> list[tuple[str, bytes]]:
    """Names and codes of all items of an output, in the order of the shards."""
    return [
        (name, codes.tobytes())
        for file in sorted(out.glob("*.parquet"))
        for batch in read_codes(file)[1]
        for name, codes in zip(batch[0], batch[1], strict=True)
    ]


def complete(out: Path) -> int:
    """Number of complete shards."""
    return len(list((out / "manifest").glob("[0-9]*.json")))


def start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)


def actors(driver: int) -> list[int]:
    """Processes of the actors of a driver's cluster that encode."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if "ShardActor" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


@dataclass
class Killed:
    """Processes that share an output, killed at random moments until it is complete.

    Args:
        commands: their words.
        out: the output.
        has_actors: whether actors of the commands are killed in turn with the commands themselves.
    """

    commands: Sequence[Sequence[str]]
    out: Path
    has_actors: bool = False
    moments: list[int] = field(default_factory=list)
    victims: list[str] = field(default_factory=list)
    failures: int = 0

    def run(self, shards: int, kills: int, most_s: float) -> float:
        """Run until all commands succeed; return the seconds.

        Args:
            shards: their number.
            kills: number of kills, spread over the progress of the run.
            most_s: longest time from a point of progress to a kill.
        """
        rng = random.Random(len(self.commands) + self.has_actors)
        began = time.perf_counter()
        self._running = [start(words) for words in self.commands]
        # A restarted process may be killed at once, since the others or its predecessor made the progress.
        for turn, progress in enumerate(sorted(rng.randrange(shards - 2) for _ in range(kills))):
            while complete(self.out) < progress:
                self._start_failed()
                time.sleep(0.01)
            time.sleep(rng.uniform(0, most_s))
            alive = [index for index, process in enumerate(self._running) if process.poll() is None]
            if alive:
                self._kill(rng.choice(alive), self.has_actors and turn % 2 == 0, rng)
        while any(process.wait() for process in self._running):
            self._start_failed()
        return time.perf_counter() - began

    def _start_failed(self) -> None:
        """Start drivers again that have failed: the start of Ray's cluster has limits of time."""
        for index, process in enumerate(self._running):
            if process.poll():
                self.failures += 1
                if not self.has_actors or self.failures > MOST_FAILURES:
                    raise SystemExit("a process that was not killed has failed")
                self._running[index] = start(self.commands[index])

    def _kill(self, index: int, is_actor: bool, rng: random.Random) -> None:
        process = self._running[index]
        if is_actor:
            while process.poll() is None and not (pids := actors(process.pid)):
                time.sleep(0.01)
            if process.poll() is None:
                os.kill(rng.choice(pids), signal.SIGKILL)
                self._note("actor")
            return
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._note("driver" if self.has_actors else "process")
        self._running[index] = start(self.commands[index])

    def _note(self, victim: str) -> None:
        self.victims.append(victim)
        self.moments.append(complete(self.out))


def main(
    num: Annotated[int, typer.Option(help="Number of pictures.")] = 100_000,
    shards: Annotated[int, typer.Option(help="Number of shards.")] = 64,
    kills: Annotated[int, typer.Option(help="Number of kills of all runs together.")] = 10,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Names of killed runs: one, two, ray.")] = None,
) -> None:
    """Train the recipe `image` for two steps, and encode the pictures with it four times."""
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    os.environ.pop("RAY_ADDRESS", None)
    smalti = [sys.executable, "-m", "smalti"]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        data, model = root / "pictures", root / "model"
        make_pictures(data, num)
        some = data / "0000"
        settings = [f"size={SIDE}", "training.steps=2", *WIDTHS]
        subprocess.run(
            [*smalti, "train", "image", "--data", some, "--out", model, *settings, "--quiet"], check=True
        )

        def words(out: str, *more: str) -> list[str]:
            where = ["--data", str(data), "--out", str(root / out)]
            return [*smalti, "encode", str(model), *where, "--shards", str(shards), "--quiet", *more]

        whole = timed_command(words("whole"))
        expected, expected_rows = digests(root / "whole"), rows(root / "whole")
        empty = timed_command(words("whole"))  # nothing is left to do
        most_s = max(0.05, (whole.wall - empty.wall) / shards)
        outcomes = {
            "one process": Killed([words("one")], root / "one"),
            "two processes": Killed(
                [words("two", "--shard", "0/2"), words("two", "--shard", "1/2")], root / "two"
            ),
            "Ray": Killed([words("ray", "--engine", "ray")], root / "ray", has_actors=True),
        }
        for index, (what, killed) in enumerate(outcomes.items()):
            if only and killed.out.name not in only:
                continue
            # Of 10 kills, 3, 3 and 4.
            seconds = killed.run(shards, kills * (index + 1) // 3 - kills * index // 3, most_s)
            is_same = digests(killed.out) == expected
            is_same_set = rows(killed.out) == expected_rows
            record(
                "shards",
                work=f"smalti encode of {num} PNG files of {SIDE}x{SIDE} into {shards} shards",
                peer=f"{what}, killed {len(killed.moments)} times by SIGKILL and started again",
                threads=threads,
                ours=whole,
                theirs=Time(seconds, None),
                benchmark="encode-shards",
                killed=killed.victims,
                complete_shards_at_kills=killed.moments,
                failed_starts=killed.failures,
                start_s=empty.wall,
                files=len(expected),
                rows=len(expected_rows),
                is_byte_for_byte_the_same=is_same,
                has_same_rows=is_same_set,
                packages=("ray",) if killed.has_actors else (),
            )
            if not is_same or not is_same_set:
                raise SystemExit(f"{what}: the files differ")
        subprocess.run([*smalti, "verify", root / "whole", "--run", model, "--data", data], check=True)


if __name__ == "__main__":
    typer.run(main)
