"""Resident memory of this process."""

from __future__ import annotations

from pathlib import Path


def resident_kib(kind: str) -> int:
    """Return the current (VmRSS) or peak (VmHWM) resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1])
