"""Peak memory of a code search, each in a process of its own, above what the process had before.

The package's is measured where the machine has the memory. Large blocks are given back to the system at once
(MALLOC_MMAP_THRESHOLD_), so that the peak is what was in use. Run as
`.venv-peers/bin/python benchmarks/memory.py`; about two minutes.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer
from record import record
from search import PEER, peer_of
from timing import Time

from smalti.quantizers.nearest import chunked, nearest_codes

DIM, NUM_CODES = 8, 16_384
TOKENS = (16_384, 65_536)
BYTES_EACH = 16
"""Bytes that the package allocates per token and code: scores, and two one-hot forms."""
LIMIT_MIB = 100


def measure(name: str, num: int) -> None:
    """Print the peak of one search, in MiB."""
    torch.set_num_threads(1)
    tokens, codebook = torch.randn(num, DIM), torch.randn(NUM_CODES, DIM)
    searches = {"ours": nearest_codes, "ours, in plain torch": chunked}
    if name == PEER:
        peer = peer_of(codebook).eval()
        searches[PEER] = lambda tokens, _: peer(tokens[None])[1]
    with torch.no_grad():
        # What is compiled or imported once is not counted.
        searches[name](tokens[:256], codebook)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = resident_kib("VmRSS")
        searches[name](tokens, codebook)
    print((resident_kib("VmHWM") - before) / 1024)


def resident_kib(kind: str) -> int:
    """Resident memory now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1])


def measured(name: str, num: int) -> Time:
    """`measure` in a process of its own: MiB, recorded where others have seconds."""
    command = [sys.executable, __file__, "--measure", name, "--num", str(num)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return Time(float(ran.stdout), None)


def main(
    threads: Annotated[int, typer.Option(help="Taken for the record; a search here has one.")] = 1,
    measure_one: Annotated[str | None, typer.Option("--measure", hidden=True)] = None,
    num: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Compare at a quarter of the tokens and at all of them."""
    if measure_one is not None:
        measure(measure_one, num)
        return
    for count in TOKENS:
        ours = measured("ours", count)
        others = {"ours, in plain torch": measured("ours, in plain torch", count)}
        needed = BYTES_EACH * count * NUM_CODES
        if importlib.util.find_spec("vector_quantize_pytorch") is None:
            print(f"{PEER} is not installed: run `make peers` to compare with it.")
        elif psutil.virtual_memory().available < 1.25 * needed:
            print(f"{PEER} is not measured at {count} tokens: it would take {needed / 2**30:.1f} GiB.")
        else:
            others[PEER] = measured(PEER, count)
        for peer, theirs in others.items():
            record(
                "memory",
                work=f"peak memory of a code search, {count} tokens of {DIM}-d, K={NUM_CODES}",
                peer=peer,
                threads=threads,
                ours=ours,
                theirs=theirs,
                unit="MiB",
                packages=(PEER,) if peer == PEER else (),
                benchmark="search-memory",
                limit_mib=LIMIT_MIB,
            )


if __name__ == "__main__":
    typer.run(main)
