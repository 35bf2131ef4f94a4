"""Computation at the precision of the weights, whatever the caller has set for its own networks.

Codes identify a signal together with the fingerprint of the weights. So they must not depend on autocast, on
torch's default dtype, or on settings that let float32 products round to TF32 or bfloat16.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import nn

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype, of the whole process, within the block."""
    before = torch.get_default_dtype()
    if before == dtype:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def full_precision(module: nn.Module) -> Iterator[None]:
    """Compute at the precision of a module's weights within the block: without autocast, TF32 or bfloat16.

    While a graph is traced, the block changes nothing.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        yield
        return
    tensors = itertools.chain(module.parameters(), module.buffers())
    weights = next((each for each in tensors if each.is_floating_point()), None)
    device = "cpu" if weights is None else weights.device.type
    with ExitStack() as stack:
        # Signals are prepared on the CPU also for a model on another device.
        for each in {"cpu", "cpu" if device == "meta" else device}:
            stack.enter_context(torch.autocast(each, enabled=False))
        stack.enter_context(default_dtype(torch.float32 if weights is None else weights.dtype))
        stack.enter_context(unrounded_products(device))
        yield


def in_full_precision(function: F) -> F:
    """Run a method of a module, or a function whose first argument is one, in `full_precision`."""

    @functools.wraps(function)
    def wrapped(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return function(module, *args, **kwargs)
        with full_precision(module):
            return function(module, *args, **kwargs)

    return cast("F", wrapped)


@contextmanager
def unrounded_products(device: str) -> Iterator[None]:
    """Do not let float32 products be rounded; cuDNN uses TF32 for convolutions by default."""
    backends: Any = torch.backends  # its stubs lack these settings
    if device == "cuda":
        settings = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    else:
        settings = (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn)
    before = [(each, each.fp32_precision) for each in settings if each.fp32_precision in ("tf32", "bf16")]
    for each, _ in before:
        each.fp32_precision = "ieee"
    try:
        yield
    finally:
        for each, value in before:
            each.fp32_precision = value
