"""Compiled nearest-code search for CPUs: matrix product and minimum fused in one loop, in float32.

Scores |e|^2 - 2 x.e stay in registers: each tile of tokens is multiplied with one panel of codes at a time,
and per token and vector lane only the smallest score so far, its code and the second smallest score are
stored. The cost is therefore little more than that of the product, and no scores are written to memory.

numba compiles the loops; the tile itself is LLVM vector code (`smalti.kernels.products`).
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numba.extending import intrinsic
from torch import Tensor

from smalti.kernels.products import HAS_WIDE_REGISTERS, LANES, LONG, WHOLE, WHOLES, Emitter

TOKENS = 6
"""Number of tokens in a tile."""
VECTORS = 4 if HAS_WIDE_REGISTERS else 1
"""Number of vectors in a panel; the sums of a tile, 6 times this number, fill the registers, not more."""
PANEL = LANES * VECTORS
"""Number of codes in a panel."""
CACHED = 256 * 1024
"""Bytes of a block of tokens with their intermediate results; each panel is applied to a whole block."""
ALONE = 2**25
"""Number of multiplications below which a second thread does not pay off."""

Array = np.ndarray


@intrinsic
@no_type_check
def _tile(typing_context, tokens, panel, bias, smallest, second, where, dim, number):
    """Compute the scores of `TOKENS` tokens for one panel of codes, and update their smallest scores.

    All arguments but the last two are addresses: tokens float32 (TOKENS, dim), panel (dim, PANEL), bias
    (PANEL,), smallest and second float32 and where int32 (TOKENS, LANES); `number` is the index of the panel.
    """
    signature = numba.types.void(tokens, panel, bias, smallest, second, where, dim, number)

    def generate(context, builder, signature, arguments):
        tokens, panel, bias, smallest, second, where, dim, number = arguments
        emit = Emitter(builder)
        biases = [emit.load(bias, LONG(vector * LANES)) for vector in range(VECTORS)]
        sums = {(token, vector): biases[vector] for token in range(TOKENS) for vector in range(VECTORS)}
        scores = emit.product(sums, tokens, dim, panel, LONG(PANEL), dim)
        first = builder.trunc(builder.mul(number, LONG(VECTORS)), WHOLE)
        for token in range(TOKENS):
            offset = LONG(token * LANES)
            least, runner_up = emit.load(smallest, offset), emit.load(second, offset)
            code = emit.load(where, offset, WHOLES)
            for vector in range(VECTORS):
                score = scores[token, vector]
                less = builder.fcmp_ordered("<", score, least)
                larger = builder.select(less, least, score)
                runner_up = builder.select(builder.fcmp_ordered("<", larger, runner_up), larger, runner_up)
                here = emit.splat(builder.add(first, WHOLE(vector)), WHOLES)
                code = builder.select(less, here, code)
                least = builder.select(less, score, least)
            emit.store(least, smallest, offset)
            emit.store(runner_up, second, offset)
            emit.store(code, where, offset)
        return context.get_dummy_value()

    return signature, generate


@numba.njit(cache=True, nogil=True)
@no_type_check
def _run(
    tokens: Any,
    centre: Any,
    panels: Any,
    biases: Any,
    margin: Any,
    least: Any,
    norm: Any,
    codes: Any,
    doubtful: Any,
) -> None:
    """Find the nearest code of each token, and whether another code may be nearer within rounding errors.

    tokens (N, D), centre (D,), panels (P, D, PANEL), biases (P * PANEL,). The results are written to codes
    (N,) and doubtful (N,).
    """
    count, dim = tokens.shape
    each = 4 * dim + 12 * LANES
    block = max(1, CACHED // (each * TOKENS)) * TOKENS
    block = min(block, max(1, (count + TOKENS - 1) // TOKENS) * TOKENS)
    centred = np.zeros((block, dim), np.float32)
    norms = np.empty(block, np.float32)
    finite = np.empty(block, np.bool_)
    smallest = np.empty((block, LANES), np.float32)
    second = np.empty((block, LANES), np.float32)
    where = np.empty((block, LANES), np.int32)
    for begin in range(0, count, block):
        rows = min(block, count - begin)
        for t in range(rows):
            square = np.float32(0)
            zero = np.float32(0)
            for d in range(dim):
                value = tokens[begin + t, d] - centre[d]
                centred[t, d] = value
                square += value * value
                zero += tokens[begin + t, d] * np.float32(0)
            norms[t] = math.sqrt(square)
            finite[t] = zero == 0  # zero is NaN if a value was not finite
        smallest[:] = np.inf
        second[:] = np.inf
        where[:] = 0
        for panel in range(len(panels)):
            for t in range(0, rows, TOKENS):
                # All tiles are complete: extra rows of the last one hold earlier tokens and are ignored.
                _tile(
                    centred[t:].ctypes.data,
                    panels[panel].ctypes.data,
                    biases[panel * PANEL :].ctypes.data,
                    smallest[t:].ctypes.data,
                    second[t:].ctypes.data,
                    where[t:].ctypes.data,
                    dim,
                    panel,
                )
        for t in range(rows):
            lane = 0
            for other in range(1, LANES):
                if smallest[t, other] < smallest[t, lane]:
                    lane = other
            runner_up = second[t, lane]
            for other in range(LANES):
                if other != lane and smallest[t, other] < runner_up:
                    runner_up = smallest[t, other]
            tolerance = margin * norm * (np.float32(2) * norms[t] + norm) + least
            # Negated, so that overflowed scores (NaN) are doubtful as well.
            doubtful[begin + t] = finite[t] and not (runner_up > smallest[t, lane] + tolerance)
            codes[begin + t] = where[t, lane] * LANES + lane if finite[t] else 0


def search(
    tokens: Float[Tensor, "n d"],
    codebook: Float[Tensor, "k d"],
    centre: Float[Tensor, " d"],
    margin: float,
    least: float,
) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    """Find the nearest code of each token by float32 scores, and the tokens whose nearest code is uncertain.

    Tokens with values that are not finite get code 0 and are not marked as uncertain.

    Args:
        tokens: float32 `(N, D)` on the CPU.
        codebook: float32 `(K, D)`.
        centre: float32 `(D,)`, a point near the codes, which is subtracted from tokens and codes.
        margin: bound on the relative error of a score.
        least: absolute error bound, added to the relative one; it covers very small scores.

    Returns:
        The codes, int64 `(N,)`, and a mask `(N,)` that is True if another code may be nearer.
    """
    count = len(tokens)
    codes = torch.empty(count, dtype=torch.int64)
    doubtful = torch.empty(count, dtype=torch.bool)
    centred = codebook - centre
    fixed = (
        centre.numpy(),
        *_panels(centred),
        np.float32(margin),
        np.float32(least),
        np.float32(centred.norm(dim=1).amax().item()),
    )

    def part(rows: slice) -> None:
        _run(tokens[rows].numpy(), *fixed, codes[rows].numpy(), doubtful[rows].numpy())

    tokens = tokens.contiguous()
    threads = torch.get_num_threads() if tokens.numel() * len(codebook) >= ALONE else 1
    if threads == 1:
        part(slice(None))
        return codes, doubtful
    share = math.ceil(count / threads / TOKENS) * TOKENS
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, [slice(begin, begin + share) for begin in range(0, count, share)]))
    return codes, doubtful


def _panels(centred: Float[Tensor, "k d"]) -> tuple[Array, Array]:
    """Compute -2e as `(P, D, PANEL)` and |e|^2 as `(P * PANEL,)`; padding codes have an infinite score."""
    num_codes, dim = centred.shape
    panels = math.ceil(num_codes / PANEL)
    weight = centred.new_zeros(panels * PANEL, dim)
    torch.mul(centred, -2, out=weight[:num_codes])
    bias = centred.new_full((panels * PANEL,), torch.inf)
    bias[:num_codes] = centred.square().sum(1)
    return weight.view(panels, PANEL, dim).transpose(1, 2).contiguous().numpy(), bias.numpy()
