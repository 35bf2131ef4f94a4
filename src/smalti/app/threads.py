"""Environment of the OpenMP runtime, chosen before torch loads it; torch must not be imported here."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def choose_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP threads sleep instead of spin, and start no more of them than there are processors.

    Threads that spin while they wait take processor time from whatever else runs, including each other:
    beside busy neighbours, training takes several times as long (benchmarks/busy.py). Values that the
    environment has stay as they are. Without effect once torch is imported.

    Args:
        environment: changed in place.
    """
    if "torch" in sys.modules:
        return
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    processes = int(number) if (number := environment.get("LOCAL_WORLD_SIZE", "")).isdecimal() else 1
    # Left alone otherwise: OpenMP itself starts one thread per processor that the process may run on.
    count = max(1, usable_processors() // max(1, processes))
    if count < _available():
        environment.setdefault("OMP_NUM_THREADS", str(count))


def usable_processors() -> int:
    """Number of processors that this process may run on and that its control group grants."""
    available = _available()
    return min(available, _quota() or available)


def _available() -> int:
    """Number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(root: Path | None = None) -> int | None:
    """Number of processors that the control group of a container grants, rounded down, or None if unlimited.

    OpenMP does not know of it, and would start a thread for each processor of the host.
    """
    root = CGROUP if root is None else root
    with suppress(OSError, ValueError):
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else max(1, int(limit) // int(period))
    with suppress(OSError, ValueError):
        limit, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if int(limit) < 0 else max(1, int(limit) // int(period))
    return None
