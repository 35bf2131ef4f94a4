"""The memory of a process that does one thing only, and the largest tensor that a piece of code makes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

STATUS = Path("/proc/self/status")


class LargestTensor(TorchDispatchMode):
    """Records the bytes of the largest storage that any operation gives, except on the meta device."""

    nbytes = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and not each.is_meta:
                self.nbytes = max(self.nbytes, each.untyped_storage().nbytes())
        return made


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
