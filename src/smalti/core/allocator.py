"""The allocator of the process, told what this program does."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: every step asks for the same large tensors again.

    By default it maps each tensor above 32 MiB anew, and many a smaller one, and the kernel clears its pages:
    with a softmax over 256 levels of 32x32 colour pictures that was 40 % of a step's processor time.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
