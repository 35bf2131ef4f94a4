"""Shared parts of the compiled sampling loops: vectorisable elementwise functions, and the draw.

`no_type_check` exempts functions that numba compiles from the run-time type checks of the tests.
"""

from __future__ import annotations

import math
from typing import Any, no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float32

Array = np.ndarray


@numba.njit(inline="always", fastmath=True)
@no_type_check
def tanh(x: Any) -> Any:
    """Approximate tanh(x) = 2t / (1 + t^2), with 7 terms of Lambert's continued fraction for t = tanh(x / 2).

    It uses only arithmetic operations, so loops over it are vectorised. The error is below 3e-7.
    """
    one = np.float32(1)
    u = min(max(x, np.float32(-18)), np.float32(18)) * np.float32(0.5)
    # Beyond |u| = 4.9 the fraction leaves [-1, 1]; there |tanh(2u)| is 1 to float precision.
    u = min(max(u, np.float32(-4.9)), np.float32(4.9))
    s = u * u
    top = u * (np.float32(135135) + s * (np.float32(17325) + s * (np.float32(378) + s)))
    bottom = np.float32(135135) + s * (np.float32(62370) + s * (np.float32(3150) + s * np.float32(28)))
    t = top / bottom
    return (t + t) / (one + t * t)


@numba.njit(inline="always", fastmath=True)
@no_type_check
def exp_of_negative(x: Any) -> Any:
    """Approximate exp(x) for x <= 0 as (1 + t) / (1 - t) with t = tanh(x / 2), and 0 below -16.

    The absolute error is below 3e-7.
    """
    t = tanh(x * np.float32(0.5))
    value = (np.float32(1) + t) / (np.float32(1) - t)
    return value if x > np.float32(-16) else np.float32(0)


@numba.njit(inline="always", fastmath=True)
@no_type_check
def gelu(x: Any) -> Any:
    """Approximate GELU, x Phi(x), by Abramowitz & Stegun 7.1.26, with an error below 1e-6 for |x| < 5."""
    one = np.float32(1)
    y = abs(x) * np.float32(0.70710678)
    k = one / (one + np.float32(0.3275911) * y)
    series = np.float32(1.061405429) * k + np.float32(-1.453152027)
    series = series * k + np.float32(1.421413741)
    series = series * k + np.float32(-0.284496736)
    series = series * k + np.float32(0.254829592)
    tail = np.float32(0.5) * series * k * exp_of_negative(-y * y)
    return x * (one - tail) if x > 0 else x * tail


@numba.njit(inline="always")
@no_type_check
def draw_symbol(logits: Any, weights: Any, uniform: Any, temperature: Any) -> Any:
    """Draw a symbol: the first index at which the cumulative weights exceed `uniform` times their sum.

    logits (K,); weights (K,) is a buffer. A temperature of 0 selects the most probable symbol.
    """
    num_codes = len(weights)
    best = 0
    for k in range(num_codes):
        if logits[k] > logits[best]:
            best = k
    if temperature == 0:
        return best
    largest = logits[best]
    total = 0.0
    for k in range(num_codes):
        weights[k] = math.exp((logits[k] - largest) / temperature)
        total += weights[k]
    threshold = uniform * total
    cumulative = 0.0
    for k in range(num_codes):
        cumulative += weights[k]
        if cumulative > threshold:
            return k
    return num_codes - 1


def array(tensor: torch.Tensor) -> Float32[Array, ...]:
    """Convert a tensor on the CPU to a contiguous float32 array."""
    return np.ascontiguousarray(tensor.detach().float().numpy())


def bias(module: torch.nn.Module) -> torch.Tensor:
    """Return the bias of a module, which must have one."""
    value = module.bias
    assert isinstance(value, torch.Tensor)
    return value


def weight(module: torch.nn.Module) -> torch.Tensor:
    """Return the weight of a module."""
    value = module.weight
    assert isinstance(value, torch.Tensor)
    return value
