"""The memory of this process."""

from __future__ import annotations

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
