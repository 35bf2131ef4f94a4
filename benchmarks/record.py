"""Speed records: one JSON line for each comparison, appended to `benchmarks/results/AREA.jsonl`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent


def record(
    area: str,
    work: str,
    peer: str,
    threads: int,
    ours: float,
    theirs: float,
    unit: str = "s",
    packages: tuple[str, ...] = (),
    **more: object,
) -> dict[str, object]:
    """Append a comparison to the records of `area`, print it as a line, and return it.

    Args:
        area: name of the file of records.
        work: what was done, with all sizes.
        peer: what ours is compared with.
        threads: threads that both were given.
        ours: time of ours, in `unit`.
        theirs: time of the peer, in `unit`.
        unit: a unit of time, so that a ratio theirs / ours above 1 says that ours is faster.
        packages: packages whose versions belong to the comparison, beside torch and smalti.
        more: further fields.
    """
    line = {
        "work": work,
        "peer": peer,
        "threads": threads,
        "ours": ours,
        "theirs": theirs,
        "unit": unit,
        "ratio": theirs / ours,
        "device": device(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "smalti", *packages)},
        "commit": commit(),
        **more,
    }
    path = HERE / "results" / f"{area}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as records:
        records.write(json.dumps(line) + "\n")
    print(f"{work}: ours {ours:.4g} {unit}, {peer} {theirs:.4g} {unit}, ratio {theirs / ours:.3g}")
    return line


def device() -> str:
    """Model of the processor and the number of its cores."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        model = next((value.strip() for name, _, value in fields if name.strip() == "model name"), model)
    return f"{model}, {os.cpu_count()} cores"


def commit() -> str:
    """The short hash of HEAD, with "+dirty" when tracked files differ; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(HERE), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # The records themselves change with every run, and are not what was measured.
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results"
        )
        return git("rev-parse", "--short", "HEAD") + ("+dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
