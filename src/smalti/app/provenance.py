"""Provenance of a result: commit, device and data."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from smalti import __version__
from smalti.data.sources import Source

JPEG = b"\xff\xd8"
"""Leading bytes of a JPEG file."""


def device() -> str:
    """Name the GPU, or the processor model and its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        model = next((value.strip() for name, _, value in fields if name.strip() == "model name"), model)
    return f"{model}, {os.cpu_count()} cores"


def commit(ignored: Sequence[str] = ("benchmarks/results", "results")) -> str:
    """Return the short hash of the checkout's HEAD, with "+dirty" if tracked files differ.

    Outside a checkout, return smalti's version.

    Args:
        ignored: folders of the checkout that change with every run and do not affect results.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    excluded = [f":(top,exclude){folder}" for folder in ignored]
    try:
        # An installed copy may be inside the checkout of another project.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", *excluded)
        return git("rev-parse", "--short", "HEAD") + ("+dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return f"smalti {__version__}"


def described(source: Source, split: str, data: str) -> str:
    """Describe the data for publication: without the user's path, and with any lossy compression."""
    path = Path(data).expanduser()
    words = source.description
    if path.exists():
        words = re.sub(rf"( of)? {re.escape(str(path))}(?= \(|,|$)", "", words)
        # A file inside the given folder is shown by its path relative to it.
        words = words.replace(f"{path}/", "")
    return f"{words}, JPEG" if is_jpeg(source, split) else words


def is_jpeg(source: Source, split: str) -> bool:
    """Return True if the first item of a split is a JPEG, whose pixels went through lossy compression."""
    first = next(source.items(split), None)
    content = None if first is None else first.content
    if isinstance(content, tuple):
        content = content[0]
    if content is None or isinstance(content, np.ndarray):
        return False
    if isinstance(content, bytes):
        return content.startswith(JPEG)
    try:
        with content.open("rb") as file:
            return file.read(len(JPEG)) == JPEG
    except OSError:
        return False  # reported later as an unreadable item
