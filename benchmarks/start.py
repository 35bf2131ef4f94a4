"""Processor time of `smalti --help`, compared with `import torch` alone.

Run as `python benchmarks/start.py`; takes about half a minute.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from record import record
from timing import Time, medians, timed_command

LIMIT_S = 0.5
COMMANDS = ([sys.executable, "-m", "smalti", "--help"], [sys.executable, "-c", "import torch"])


def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 9,
    threads: Annotated[int, typer.Option(help="Value in the record; a start has one thread.")] = 1,
) -> None:
    """Compare the two."""
    rounds = [[timed_command(command) for command in COMMANDS] for _ in range(repeats + 1)][1:]
    # The target is in processor time, so it takes the place of wall time in the record.
    ours, theirs = (Time(time.processor or 0, None) for time in medians(rounds))
    record(
        "start",
        work="smalti --help, processor time",
        peer="python -c 'import torch'",
        threads=threads,
        ours=ours,
        theirs=theirs,
        benchmark="cli-start",
        limit_s=LIMIT_S,
        repeats=repeats,
    )


if __name__ == "__main__":
    typer.run(main)
