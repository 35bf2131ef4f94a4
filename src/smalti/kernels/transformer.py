"""Compiled sampling loop of the transformer for CPUs; it computes the same logits as `Transformer.step`.

For small batches a step is limited by reading the weights, and calls to a matrix library stay far below the
memory bandwidth. Here the weights are stored in the order in which they are read, several items share each
read, and the draw is part of the loop. The positions of keys are contiguous in memory, so the scores of a
head are one product.

`no_type_check` exempts functions that numba compiles from the run-time type checks of the tests.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, final, no_type_check

import numpy as np
import torch
from jaxtyping import Float32, Int64

from smalti.core.priors import SamplingKernel
from smalti.kernels.products import add_panels, add_product, in_panels
from smalti.kernels.sampling import (
    Array,
    array,
    bias,
    check_left,
    draw_symbol,
    exp_of_negative,
    gelu,
    inner,
    loop,
    weight,
)

if TYPE_CHECKING:
    from smalti.autoregressive.transformer import Transformer, TransformerState


PADDING = 16
"""Unused positions at the end of the rows of keys: rows a power of two apart would share few cache sets."""


@inner
@no_type_check
def _normalise(out: Any, x: Any, scale: Any, shift: Any, epsilon: Any) -> None:
    """Write the layer normalisation of each row of x to out."""
    rows, channels = x.shape
    for b in range(rows):
        mean = np.float32(0)
        for c in range(channels):
            mean += x[b, c]
        mean /= np.float32(channels)
        variance = np.float32(0)
        for c in range(channels):
            variance += (x[b, c] - mean) * (x[b, c] - mean)
        factor = np.float32(1 / math.sqrt(variance / np.float32(channels) + epsilon))
        for c in range(channels):
            out[b, c] = (x[b, c] - mean) * factor * scale[c] + shift[c]


@inner
@no_type_check
def _attend(out: Any, query: Any, keys: Any, values: Any, scores: Any) -> None:
    """Compute one attention head of one item: query (d,), keys (d, n), values (n, d), result in out (d,).

    scores (n,) is a buffer.
    """
    num = len(values)
    scores[:] = 0
    add_product(scores, keys, query)
    largest = scores[0]
    for s in range(num):
        largest = max(largest, scores[s])
    total = np.float32(0)
    for s in range(num):
        scores[s] = exp_of_negative(scores[s] - largest)
        total += scores[s]
    out[:] = 0
    add_product(out, values, scores)
    for c in range(len(out)):
        out[c] /= total


@loop
@no_type_check
def _run(
    symbols: Any,
    uniform: Any,
    temperature: Any,
    first: Any,
    epsilon: Any,
    begin: Any,
    table: Any,
    places: Any,
    norms: Any,
    project: Any,
    out_weight: Any,
    out_bias: Any,
    mlp_norms: Any,
    widen_weight: Any,
    widen_bias: Any,
    narrow_weight: Any,
    narrow_bias: Any,
    last_norm: Any,
    head_weight: Any,
    head_bias: Any,
    keys: Any,
    values: Any,
    logits: Any,
) -> None:
    """Draw `len(uniform)` symbols for each item, starting with symbol number `first`.

    symbols (T + 1, B): row 0 holds the last symbols drawn before, row t + 1 the symbols drawn at step t.
    begin (B, C), table (G, K, C), places (S, C); norms and mlp_norms (L, 2, C) hold scales and shifts; keys
    (L, B, heads, d, S + PADDING) and values (L, B, heads, S, d). Weights are in panels, one per layer; those
    of the output head, one per codebook.
    """
    count = len(uniform)
    layers, lines, heads, width, _ = keys.shape
    channels, num_codes = heads * width, logits.shape[1]
    codebooks = len(head_weight)
    scale = np.float32(1 / math.sqrt(width))
    x = np.zeros((lines, channels), np.float32)
    normal = np.zeros((lines, channels), np.float32)
    qkv = np.zeros((lines, 3 * channels), np.float32)
    attended = np.zeros((lines, channels), np.float32)
    wide = np.zeros((lines, widen_bias.shape[1]), np.float32)
    scores = np.zeros(len(places), np.float32)
    weights = np.empty(num_codes, np.float64)
    for t in range(count):
        symbol = first + t
        for b in range(lines):
            if symbol == 0:
                x[b, :] = begin[b] + places[0]
            else:
                x[b, :] = table[(symbol - 1) % codebooks, symbols[t, b]] + places[symbol]
        for layer in range(layers):
            _normalise(normal, x, norms[layer, 0], norms[layer, 1], epsilon)
            qkv[:, :] = 0
            add_panels(qkv, project[layer], normal)
            for b in range(lines):
                for c in range(channels):
                    qkv[b, c] *= scale
                for head in range(heads):
                    at = head * width
                    for c in range(width):
                        keys[layer, b, head, c, symbol] = qkv[b, channels + at + c]
                        values[layer, b, head, symbol, c] = qkv[b, 2 * channels + at + c]
                    _attend(
                        attended[b, at : at + width],
                        qkv[b, at : at + width],
                        keys[layer, b, head, :, : symbol + 1],
                        values[layer, b, head, : symbol + 1],
                        scores[: symbol + 1],
                    )
                for c in range(channels):
                    x[b, c] += out_bias[layer, c]
            add_panels(x, out_weight[layer], attended)
            _normalise(normal, x, mlp_norms[layer, 0], mlp_norms[layer, 1], epsilon)
            for b in range(lines):
                wide[b, :] = widen_bias[layer]
            add_panels(wide, widen_weight[layer], normal)
            for b in range(lines):
                row = wide[b]
                for c in range(len(row)):
                    row[c] = gelu(row[c])
                for c in range(channels):
                    x[b, c] += narrow_bias[layer, c]
            add_panels(x, narrow_weight[layer], wide)
        _normalise(normal, x, last_norm[0], last_norm[1], epsilon)
        codebook = symbol % codebooks
        for b in range(lines):
            logits[b, :] = head_bias[codebook]
        add_panels(logits, head_weight[codebook], normal)
        for b in range(lines):
            symbols[t + 1, b] = draw_symbol(logits[b], weights, uniform[t, b], temperature)


@final
class TransformerKernel(SamplingKernel):
    """Compiled sampling loop that starts from a state of `Transformer.start`.

    Args:
        network: the network, on the CPU.
        state: state before the first symbol; its tensors are not modified.
    """

    def __init__(self, network: Transformer, state: TransformerState) -> None:
        layers = network.layers
        lines, channels = state.begin.shape
        heads, num = network.config.heads, len(state.places)
        kept = (len(layers), lines, heads)
        self._drawn, self._symbols = 0, num
        self._last = np.full(lines, -1, np.int64)
        self._logits = np.zeros((lines, network.num_codes), np.float32)
        mlps: list[Any] = [layer.mlp for layer in layers]
        self._epsilon = np.float32(network.norm.eps)
        self._arrays = (
            array(state.begin),
            array(network.embeddings),
            array(state.places),
            array(torch.stack([_scale_and_shift(layer.norm) for layer in layers])),
            in_panels(array(torch.stack([weight(layer.project).t() for layer in layers]))),
            in_panels(array(torch.stack([weight(layer.out).t() for layer in layers]))),
            array(torch.stack([bias(layer.out) for layer in layers])),
            array(torch.stack([_scale_and_shift(mlp[0]) for mlp in mlps])),
            in_panels(array(torch.stack([weight(mlp[1]).t() for mlp in mlps]))),
            array(torch.stack([bias(mlp[1]) for mlp in mlps])),
            in_panels(array(torch.stack([weight(mlp[3]).t() for mlp in mlps]))),
            array(torch.stack([bias(mlp[3]) for mlp in mlps])),
            array(_scale_and_shift(network.norm)),
            in_panels(array(network.head_weights.transpose(1, 2))),
            array(network.head_biases),
            np.zeros((*kept, channels // heads, num + PADDING), np.float32),
            np.zeros((*kept, num, channels // heads), np.float32),
        )

    def draw(self, uniform: Float32[Array, "t b"], temperature: float = 1.0) -> Int64[Array, "t b"]:
        """Draw the next T symbols of each item.

        Args:
            uniform: numbers in [0, 1), one per symbol and item.
            temperature: divides the logits; 0 selects the most probable symbol.

        Raises:
            InputError: if fewer than T symbols are left in the grids.
        """
        check_left(len(uniform), self._symbols - self._drawn)
        symbols = np.empty((len(uniform) + 1, len(self._last)), np.int64)
        symbols[0] = self._last
        # An integer temperature would be a new type, for which numba would compile again.
        settings = float(temperature), self._drawn, self._epsilon
        _run(symbols, uniform, *settings, *self._arrays, self._logits)
        self._drawn += len(uniform)
        self._last = symbols[-1]
        return symbols[1:]

    @property
    def logits(self) -> Float32[Array, "b k"]:
        """Logits from which the last symbols were drawn."""
        return self._logits


def _scale_and_shift(norm: torch.nn.Module) -> torch.Tensor:
    return torch.stack([weight(norm), bias(norm)])
