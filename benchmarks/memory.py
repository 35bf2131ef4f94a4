"""Peak memory of code searches above the baseline of the process, each in its own process.

The peer package is measured only if the machine has enough memory. Large blocks are returned to the system
immediately (MALLOC_MMAP_THRESHOLD_), so that the peak counts memory in use. Run as
`.venv-peers/bin/python benchmarks/memory.py`; takes about two minutes.
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
from resident import resident_kib
from search import PEER, peer_of
from timing import Time

from smalti.quantizers.nearest import chunked, nearest_codes

DIM, NUM_CODES = 8, 16_384
TOKENS = (16_384, 65_536)
BYTES_EACH = 16
"""Bytes that the peer package allocates per token and code: scores, and two one-hot tensors."""
LIMIT_MIB = 100
PLAIN = "smalti, plain torch form"


def measure(name: str, num: int) -> None:
    """Print the peak memory of one search, in MiB."""
    torch.set_num_threads(1)
    tokens, codebook = torch.randn(num, DIM), torch.randn(NUM_CODES, DIM)
    searches = {"ours": nearest_codes, PLAIN: chunked}
    if name == PEER:
        peer = peer_of(codebook).eval()
        searches[PEER] = lambda tokens, _: peer(tokens[None])[1]
    with torch.no_grad():
        # A first call excludes one-time compilation and imports.
        searches[name](tokens[:256], codebook)
        Path("/proc/self/clear_refs").write_text("5")  # resets the recorded peak
        before = resident_kib("VmRSS")
        searches[name](tokens, codebook)
    print((resident_kib("VmHWM") - before) / 1024)


def measured(name: str, num: int) -> Time:
    """Run `measure` in its own process; the result is in MiB, in the field for seconds."""
    command = [sys.executable, __file__, "--measure", name, "--num", str(num)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return Time(float(ran.stdout), None)


def main(
    threads: Annotated[int, typer.Option(help="Value in the record; searches here have one thread.")] = 1,
    measure_one: Annotated[str | None, typer.Option("--measure", hidden=True)] = None,
    num: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Compare at both numbers of tokens."""
    if measure_one is not None:
        measure(measure_one, num)
        return
    for count in TOKENS:
        ours = measured("ours", count)
        others = {PLAIN: measured(PLAIN, count)}
        needed = BYTES_EACH * count * NUM_CODES
        if importlib.util.find_spec("vector_quantize_pytorch") is None:
            print(f"{PEER} is not installed: run `make peers` to include it.")
        elif psutil.virtual_memory().available < 1.25 * needed:
            print(f"{PEER} is skipped at {count} tokens: it needs {needed / 2**30:.1f} GiB.")
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
