"""Compiled sampling loop of the gated PixelCNN for CPUs; it computes the same logits as `GatedPixelCNN.step`.

With one call per operation, a small network spends much of its time on call overhead. Here numba compiles the
loop over positions and rows, including the draw. A convolution is a product of panels with windows of its
input rows as they lie in memory.

Layers after the first have equal shapes, so their arrays are stacked. `no_type_check` exempts functions that
numba compiles from the run-time type checks of the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final, no_type_check

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from smalti.core.priors import SamplingKernel
from smalti.kernels.products import add_panels, in_panels
from smalti.kernels.sampling import Array, array, bias, check_left, draw_symbol, gate, inner, loop, weight

if TYPE_CHECKING:
    from smalti.autoregressive.gated_layer import GatedLayer, LayerState
    from smalti.autoregressive.pixelcnn import GatedPixelCNN, PixelCNNState


@inner
@no_type_check
def _gated(out: Any, maps: Any) -> None:
    """Write tanh(a) sigmoid(b) of the halves a and b of each row of maps (B, 2p) to out (B, p)."""
    rows, channels = out.shape
    for b in range(rows):
        for c in range(channels):
            out[b, c] = gate(maps[b, c], maps[b, channels + c])


@inner
@no_type_check
def _relu(out: Any, x: Any) -> None:
    for b in range(len(x)):
        for c in range(x.shape[1]):
            out[b, c] = max(x[b, c], np.float32(0))


@inner
@no_type_check
def _vertical_row(
    pre_v: Any, pre_h: Any, ring: Any, oldest: Any, panels: Any, link: Any, begin_v: Any, begin_h: Any
) -> None:
    """Compute the pre-gate maps of a layer for one row: those of the vertical stack, and the link's.

    pre_v (B, W, 2p), pre_h (W, B, 2p). ring (rows, B, W + padding, C) holds the last input rows; panels are
    those of each row of the kernel. begin_v (B, C, 2p) and begin_h (C, B, 2p), where C divides W.
    """
    lines, width, maps = pre_v.shape
    channels, inputs = ring.shape[3], panels.shape[2]
    repeat = width // len(begin_h)
    for b in range(lines):
        for w in range(width):
            for m in range(maps):
                pre_v[b, w, m] = begin_v[b, w // repeat, m]
                pre_h[w, b, m] = begin_h[w // repeat, b, m]
        for number in range(len(ring)):
            row = ring[(oldest + number) % len(ring), b].reshape(-1)
            windows = as_strided(row, (width, inputs), (4 * channels, 4))
            add_panels(pre_v[b], panels[number], windows)
        add_panels(pre_h[:, b], link, pre_v[b])


@inner
@no_type_check
def _horizontal_step(
    out: Any, skip: Any, pre_h: Any, window: Any, panels: Any, projection: Any, gated: Any
) -> None:
    """Compute the output (B, p) of the horizontal stack of a layer at one position.

    skip (B, p) is added to it; pre_h (B, 2p) is overwritten; window (B, taps * C) are the inputs in reach;
    gated (B, p) is a buffer.
    """
    add_panels(pre_h, panels, window)
    _gated(gated, pre_h)
    for b in range(len(out)):
        for c in range(out.shape[1]):
            out[b, c] = skip[b, c]
    add_panels(out, projection, gated)


@loop
@no_type_check
def _run(
    symbols: Any,
    uniform: Any,
    temperature: Any,
    first: Any,
    grid_rows: Any,
    tables: Any,
    prefixes: Any,
    first_vertical: Any,
    vertical: Any,
    links: Any,
    first_horizontal: Any,
    horizontal: Any,
    projections: Any,
    first_skip: Any,
    hidden_weights: Any,
    hidden_biases: Any,
    logit_weights: Any,
    logit_biases: Any,
    begins_v: Any,
    begins_h: Any,
    first_ring: Any,
    rings: Any,
    first_row: Any,
    inputs: Any,
    pre_h: Any,
    context: Any,
    logits: Any,
) -> None:
    """Draw `len(uniform)` symbols for each item, starting with symbol number `first`.

    symbols (T, B). Weights are in panels. begins_v (L, R, B, C, 2p) and begins_h (L, R, C, B, 2p), where R
    and C divide rows and columns; pre_h (L, W, B, 2p). rings (L - 1, rows, B, W + padding, C) and
    inputs (L - 1, B, padding + W, C) belong to the vertical and horizontal stack of the later layers.
    """
    layers, width, lines, maps = pre_h.shape
    channels, codebooks, num_codes = maps // 2, len(tables), logits.shape[1]
    first_padding, padding = first_row.shape[1] - width, inputs.shape[2] - width
    first_side, side = (first_ring.shape[2] - width) // 2, (rings.shape[3] - width) // 2
    taps, first_taps = horizontal.shape[2], first_horizontal.shape[1]
    pre_v = np.zeros((lines, width, maps), np.float32)
    gated = np.zeros((lines, channels), np.float32)
    hidden = np.zeros((lines, hidden_biases.shape[1]), np.float32)
    weights = np.empty(num_codes, np.float64)
    first_windows = first_row.reshape(lines, -1)
    windows = inputs.reshape(len(inputs), lines, -1)
    for t in range(len(uniform)):
        position, codebook = divmod(first + t, codebooks)
        row, column = divmod(position, width)
        if codebook == 0 and column == 0:
            at = row * begins_v.shape[1] // grid_rows
            newest = row % len(first_ring)
            first_ring[newest, :, first_side : first_side + width] = first_row[:, first_padding:]
            _vertical_row(
                pre_v,
                pre_h[0],
                first_ring,
                newest + 1,
                first_vertical,
                links[0],
                begins_v[0, at],
                begins_h[0, at],
            )
            for layer in range(1, layers):
                newest = row % rings.shape[1]
                for b in range(lines):
                    _gated(rings[layer - 1, newest, b, side : side + width], pre_v[b])
                _vertical_row(
                    pre_v,
                    pre_h[layer],
                    rings[layer - 1],
                    newest + 1,
                    vertical[layer - 1],
                    links[layer],
                    begins_v[layer, at],
                    begins_h[layer, at],
                )
        if codebook == 0:
            begin = column * channels
            _horizontal_step(
                context if layers == 1 else inputs[0, :, padding + column],
                first_skip,
                pre_h[0, column],
                first_windows[:, begin : begin + first_taps],
                first_horizontal,
                projections[0],
                gated,
            )
            for layer in range(1, layers):
                _horizontal_step(
                    context if layer == layers - 1 else inputs[layer, :, padding + column],
                    inputs[layer - 1, :, padding + column],
                    pre_h[layer, column],
                    windows[layer - 1, :, begin : begin + taps],
                    horizontal[layer - 1],
                    projections[layer],
                    gated,
                )
        for b in range(lines):
            hidden[b] = hidden_biases[codebook]
            logits[b] = logit_biases[codebook]
        _relu(gated, context)
        add_panels(hidden, hidden_weights[codebook], gated)
        _relu(hidden, hidden)
        add_panels(logits, logit_weights[codebook], hidden)
        for b in range(lines):
            symbol = draw_symbol(logits[b], weights, uniform[t, b], temperature)
            symbols[t, b] = symbol
            slot = first_row[b, first_padding + column]
            if codebook == 0:
                slot[:] = tables[0, symbol]
            else:
                slot += tables[codebook, symbol]
            if codebook + 1 < codebooks:
                context[b] += prefixes[codebook, symbol]


@final
class PixelCNNKernel(SamplingKernel):
    """Compiled sampling loop that starts from a state of `GatedPixelCNN.start`.

    Args:
        network: the network, on the CPU, without conditioners.
        state: state before the first symbol; its tensors are not modified.
    """

    def __init__(self, network: GatedPixelCNN, state: PixelCNNState) -> None:
        first, layers = network.layers[0], list(network.layers)
        later = layers[1:] or layers  # unused with one layer
        rows, width = state.grid
        lines, channels = state.features.shape
        heads: list[Any] = list(network.heads)
        embeddings = [weight(each) for each in network.embeddings]
        prefixes = [weight(each) for each in network.prefixes] or embeddings  # unused with one codebook
        begins = [_begins(*each, lines) for each in zip(layers, state.layers, strict=True)]
        self._symbols, self._drawn = rows * width * network.num_codebooks, 0
        self._logits = np.zeros((lines, network.num_codes), np.float32)
        self._arrays = (
            rows,
            _stacked(embeddings),
            _stacked(prefixes),
            in_panels(array(_by_row(first))),
            in_panels(_stacked([_by_row(layer) for layer in later])),
            in_panels(_stacked([weight(layer.link).flatten(1).t() for layer in layers])),
            in_panels(array(_by_tap(first))),
            in_panels(_stacked([_by_tap(layer) for layer in later])),
            in_panels(_stacked([weight(layer.out).flatten(1).t() for layer in layers])),
            array(bias(first.out).expand(lines, -1)),
            in_panels(_stacked([weight(head[1]).t() for head in heads])),
            _stacked([bias(head[1]) for head in heads]),
            in_panels(_stacked([weight(head[3]).t() for head in heads])),
            _stacked([bias(head[3]) for head in heads]),
            _stacked([of_v for of_v, _ in begins]),
            _stacked([of_h for _, of_h in begins]),
            _ring(first, lines, width),
            np.stack([_ring(layer, lines, width) for layer in later]),
            _line(first, lines, width),
            np.stack([_line(layer, lines, width) for layer in later]),
            np.zeros((len(layers), width, lines, 2 * channels), np.float32),
            np.zeros((lines, channels), np.float32),
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
        symbols = np.empty(uniform.shape, np.int64)
        # An integer temperature would be a new type, for which numba would compile again.
        _run(symbols, uniform, float(temperature), self._drawn, *self._arrays, self._logits)
        self._drawn += len(uniform)
        return symbols

    @property
    def logits(self) -> Float32[Array, "b k"]:
        """Logits from which the last symbols were drawn."""
        return self._logits


def _stacked(tensors: Sequence[Tensor]) -> Float32[Array, ...]:
    return array(torch.stack(list(tensors)))


def _by_row(layer: GatedLayer) -> Tensor:
    """Vertical kernel as one matrix per row, `(rows, k * C, 2p)`."""
    return weight(layer.vertical.conv).permute(2, 3, 1, 0).flatten(1, 2)


def _by_tap(layer: GatedLayer) -> Tensor:
    """Horizontal kernel as a matrix `(taps * C, 2p)`."""
    return weight(layer.horizontal.conv).squeeze(2).permute(2, 1, 0).flatten(0, 1)


def _ring(layer: GatedLayer, lines: int, width: int) -> Float32[Array, "rows b padded c"]:
    vertical = layer.vertical
    return np.zeros((vertical.rows, lines, width + 2 * vertical.side, vertical.conv.in_channels), np.float32)


def _line(layer: GatedLayer, lines: int, width: int) -> Float32[Array, "b padded c"]:
    horizontal = layer.horizontal
    padding = horizontal.taps - (not horizontal.strict)
    return np.zeros((lines, padding + width, horizontal.conv.in_channels), np.float32)


def _begins(layer: GatedLayer, state: LayerState, lines: int) -> tuple[Tensor, Tensor]:
    """Biases and conditions of the pre-gate maps, of the vertical and of the horizontal stack.

    The link adds the vertical maps to the horizontal ones before they are conditioned, so its share of the
    conditions is subtracted.

    Returns:
        `(R, B, C, 2p)` and `(R, C, B, 2p)`.
    """
    conv, link = layer.vertical.conv, layer.link
    of_v, of_h = state.shifts or (torch.zeros(1, lines, 1, conv.out_channels),) * 2
    linked = of_v @ weight(link).flatten(1).t()
    return of_v + bias(conv), of_h.reshape(linked.transpose(1, 2).shape) + bias(link) - linked.transpose(1, 2)
