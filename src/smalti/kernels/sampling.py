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

from smalti.core.errors import InputError

Array = np.ndarray

# By default, numba checks each divisor for zero, which keeps loops from being vectorised.
inlined = numba.njit(inline="always", fastmath=True, error_model="numpy")
"""Compiles a function as a part of those that call it."""
inner = numba.njit(fastmath=True, error_model="numpy")
"""Compiles a function that loops call."""
loop = numba.njit(fastmath=True, error_model="numpy", cache=True, nogil=True)
"""Compiles a whole loop, and keeps the result on disk."""


@inlined
@no_type_check
def _fraction(u: Any) -> Any:
    """Return p and q of 7 terms of Lambert's continued fraction p / q for tanh(u)."""
    # Beyond |u| = 4.9 the fraction leaves [-1, 1]; there |tanh(2u)| is 1 to float precision.
    u = min(max(u, np.float32(-4.9)), np.float32(4.9))
    s = u * u
    p = u * (np.float32(135135) + s * (np.float32(17325) + s * (np.float32(378) + s)))
    q = np.float32(135135) + s * (np.float32(62370) + s * (np.float32(3150) + s * np.float32(28)))
    return p, q


@inlined
@no_type_check
def gate(a: Any, b: Any) -> Any:
    """Approximate tanh(a) sigmoid(b) with one division.

    tanh(x) = 2pq / (q^2 + p^2) where tanh(x / 2) = p / q, and sigmoid(x) = (q + p)^2 / (2 (q^2 + p^2)) where
    tanh(x / 4) = p / q. Only arithmetic is used, so loops over it are vectorised. The error is below 5e-7.
    """
    p_a, q_a = _fraction(a * np.float32(0.5))
    p_b, q_b = _fraction(b * np.float32(0.25))
    both = q_b + p_b
    return p_a * q_a * both * both / ((q_a * q_a + p_a * p_a) * (q_b * q_b + p_b * p_b))


@inlined
@no_type_check
def exp_of_negative(x: Any) -> Any:
    """Approximate exp(x) for x <= 0 as ((q + p) / (q - p))^2 with tanh(x / 4) = p / q, and 0 below -16.

    The absolute error is below 3e-7.
    """
    p, q = _fraction(x * np.float32(0.25))
    ratio = (q + p) / (q - p)
    return ratio * ratio if x > np.float32(-16) else np.float32(0)


@inlined
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


@numba.njit(inline="always", error_model="numpy")
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


def check_left(num: int, left: int) -> None:
    """Check that a loop has enough symbols left to draw.

    Raises:
        InputError: if it has fewer than `num`.
    """
    if num > left:
        raise InputError(f"expected at most {left} further symbols, received {num}: start with a new state")


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
