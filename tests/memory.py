"""The memory of a process that does one thing only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def most_memory_kb() -> int:
    """Most memory that this program has held at once, in KiB; 0 where the system does not say.

    `getrusage` is no help: a new program inherits the maximum of the one that started it.
    """
    if not STATUS.exists():
        return 0
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines["VmHWM"].split()[0])


def run_apart(command: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, which can import the tests."""
    paths = os.pathsep.join([os.getcwd(), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
