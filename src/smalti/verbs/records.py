"""Results as records: one JSON object for each model, seed and bound, and tables made of them."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from smalti import __version__
from smalti.files import atomic_file

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The records of a file; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write a file of records, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))


def device() -> str:
    """The GPU, or the model of the processor and the number of its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        model = next((value.strip() for name, _, value in fields if name.strip() == "model name"), model)
    return f"{model}, {os.cpu_count()} cores"


def commit(ignored: Sequence[str] = ("benchmarks/results", "results")) -> str:
    """The short hash of the checkout's HEAD, "+dirty" when tracked files differ; else smalti's version.

    Args:
        ignored: folders of the checkout that change with every run, and are not what was measured.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    excluded = [f":(top,exclude){folder}" for folder in ignored]
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", *excluded)
        return git("rev-parse", "--short", "HEAD") + ("+dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return f"smalti {__version__}"


def bounds_table(records: Sequence[Record], paper: dict[str, float]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of bits/dim: a row for each model and bound, averaged over its seeds.

    Args:
        records: those of one study.
        paper: the paper's figures, by kind of model and bound.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["entry"], record["model"], record["prior"]), []).append(record)
    header = ["", "model", "prior", "bits/dim", "over seeds", "rate + distortion", "PSNR", "codes used"]
    rows = []
    for (entry, model, prior), group in groups.items():
        metrics = [record["metrics"] for record in group]
        usage = [m["usage"] for m in metrics if "usage" in m]
        rows.append(
            [
                entry,
                model,
                prior,
                f"{_mean(metrics, 'bits_per_dim'):.3f} ± {_mean(metrics, 'stderr'):.3f}",
                over_seeds([m["bits_per_dim"] for m in metrics]),
                f"{_mean(metrics, 'rate'):.3f} + {_mean(metrics, 'distortion'):.3f}",
                f"{_mean(metrics, 'psnr'):.2f}",
                f"{sum(usage) / len(usage):.1%}" if usage else "",
            ]
        )
        if paper:
            kind = group[0]["config"]["model"]["kind"]
            figure = paper.get(f"{kind} {re.sub(', .* draws', ', draws', prior)}")
            rows[-1].append("" if figure is None else f"{figure:.2f}")
    return header + (["paper"] if paper else []), rows


def over_seeds(values: Sequence[float]) -> str:
    """The standard error of a mean over seeds, and their number."""
    num = len(values)
    if num < 2:
        return "1 seed"
    mean = sum(values) / num
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (num - 1))
    return f"± {deviation / math.sqrt(num):.3f} ({num} seeds)"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; figures to the right."""
    align = ["---"] * 2 + ["---:"] * (len(header) - 2)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, align, *rows)) + "\n"


def _mean(metrics: Sequence[dict[str, float]], name: str) -> float:
    return sum(m[name] or 0.0 for m in metrics) / len(metrics)
