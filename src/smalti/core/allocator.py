"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for reuse, because every step allocates the same large tensors.

    By default glibc maps each tensor above 32 MiB (and many smaller ones) anew, and the kernel clears its
    pages. With a softmax over 256 levels of 32x32 colour pictures, this took 40 % of a step's processor time.
    On other systems this function does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries do not have it
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
