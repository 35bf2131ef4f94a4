"""Compiled sampling loop of WaveNet for CPUs; it computes the same logits as `WaveNet.step`, in float32.

With one call per step, a small network spends most of its time on call overhead. Here numba compiles the
whole loop, including the draw. The weights are stored in the order in which they are read, several items
share each read, and the contributions of the conditions are computed in advance.

`no_type_check` exempts functions that numba compiles from the run-time type checks of the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final, no_type_check

import numpy as np
import torch
from jaxtyping import Float32, Int64

from smalti.core.priors import SamplingKernel
from smalti.kernels.products import add_panels, in_panels
from smalti.kernels.sampling import Array, array, bias, draw_symbol, gate, loop, weight

if TYPE_CHECKING:
    from smalti.autoregressive.wavenet import WaveNet, WaveNetState


@loop
@no_type_check
def _run(
    symbols: Any,
    uniform: Any,
    temperature: Any,
    first: Any,
    length: Any,
    table: Any,
    dilated: Any,
    out_weight: Any,
    out_bias: Any,
    shifts: Any,
    local: Any,
    rings: Any,
    starts: Any,
    ats: Any,
    reaches: Any,
    dilations: Any,
    hidden_weight: Any,
    hidden_bias: Any,
    logit_weight: Any,
    logit_bias: Any,
    logits: Any,
) -> None:
    """Draw `len(uniform)` symbols for each item, starting with symbol number `first`.

    symbols (T + 1, B): row 0 holds the last symbols drawn before (-1 if none), row t + 1 the symbols drawn at
    step t. dilated (L, taps) and out_weight (L) are followed by the axes of their panels; shifts (L, B, 2g),
    local (frames, L, B, 2g) or empty, rings (sum of reaches, B, C).
    """
    count, lines = uniform.shape
    layers, _, gates2 = shifts.shape
    taps, gates = dilated.shape[1], gates2 // 2
    channels = table.shape[1]
    skips = out_bias.shape[1] - channels
    num_codes = len(logit_bias)
    x = np.zeros((lines, channels), np.float32)
    pre = np.zeros((lines, gates2), np.float32)
    gated = np.zeros((lines, gates), np.float32)
    both = np.zeros((lines, channels + skips), np.float32)
    total = np.zeros((lines, skips), np.float32)
    hidden = np.zeros((lines, len(hidden_bias)), np.float32)
    weights = np.empty(num_codes, np.float64)
    for t in range(count):
        for b in range(lines):
            if symbols[t, b] < 0:
                x[b, :] = 0
            else:
                x[b, :] = table[symbols[t, b]]
        total[:, :] = 0
        frame = (first + t) * len(local) // length
        for layer in range(layers):
            if len(local):
                for b in range(lines):
                    for o in range(gates2):
                        pre[b, o] = shifts[layer, b, o] + local[frame, layer, b, o]
            else:
                pre[:, :] = shifts[layer]
            reach, start, at = reaches[layer], starts[layer], ats[layer]
            for tap in range(taps - 1):
                add_panels(pre, dilated[layer, tap], rings[start + (at + tap * dilations[layer]) % reach])
            add_panels(pre, dilated[layer, taps - 1], x)
            if reach:
                rings[start + at] = x
                ats[layer] = (at + 1) % reach
            for b in range(lines):
                for o in range(gates):
                    gated[b, o] = gate(pre[b, o], pre[b, gates + o])
                both[b, :] = out_bias[layer]
            add_panels(both, out_weight[layer], gated)
            for b in range(lines):
                for o in range(channels):
                    x[b, o] += both[b, o]
                for o in range(skips):
                    total[b, o] += both[b, channels + o]
        for b in range(lines):
            for o in range(skips):
                total[b, o] = max(total[b, o], np.float32(0))
            hidden[b, :] = hidden_bias
            logits[b, :] = logit_bias
        add_panels(hidden, hidden_weight, total)
        for b in range(lines):
            for o in range(hidden.shape[1]):
                hidden[b, o] = max(hidden[b, o], np.float32(0))
        add_panels(logits, logit_weight, hidden)
        for b in range(lines):
            symbols[t + 1, b] = draw_symbol(logits[b], weights, uniform[t, b], temperature)


@final
class WaveNetKernel(SamplingKernel):
    """Compiled sampling loop that starts from a state of `WaveNet.start`.

    Args:
        network: the network, on the CPU, with an embedding table of symbols.
        state: state before the first symbol; its tensors are not modified.
    """

    def __init__(self, network: WaveNet, state: WaveNetState) -> None:
        layers = network.layers
        lines = state.shifts.shape[1]
        reaches = [layer.dilated.reach for layer in layers]
        # The bias of the convolution is added together with the contribution of the conditions.
        biases = torch.stack([bias(layer.dilated.conv) for layer in layers])
        hidden, logit = network.hidden, network.logit
        empty = torch.zeros(0, *state.shifts.shape)
        self._length, self._drawn = state.length, 0
        self._last = np.full(lines, -1, np.int64)
        self._logits = np.zeros((lines, logit.out_features), np.float32)
        self._arrays = (
            array(weight(network.embedding)),
            in_panels(array(torch.stack([layer.dilated.conv.weight.permute(2, 1, 0) for layer in layers]))),
            in_panels(array(torch.stack([layer.out.weight.squeeze(2).t() for layer in layers]))),
            array(torch.stack([bias(layer.out) for layer in layers])),
            array(state.shifts + biases.unsqueeze(1)),
            array(empty if state.local is None else state.local),
            np.zeros((max(1, sum(reaches)), lines, network.config.channels), np.float32),
            np.cumsum([0, *reaches[:-1]]).astype(np.int64),
            np.zeros(len(layers), np.int64),
            np.array(reaches, np.int64),
            np.array([layer.dilated.dilation for layer in layers], np.int64),
            in_panels(array(hidden.weight.t())),
            array(hidden.bias),
            in_panels(array(logit.weight.t())),
            array(logit.bias),
        )

    def draw(self, uniform: Float32[Array, "t b"], temperature: float = 1.0) -> Int64[Array, "t b"]:
        """Draw the next T symbols of each item.

        Args:
            uniform: numbers in [0, 1), one per symbol and item.
            temperature: divides the logits; 0 selects the most probable symbol.
        """
        symbols = np.empty((len(uniform) + 1, len(self._last)), np.int64)
        symbols[0] = self._last
        # An integer temperature would be a new type, for which numba would compile again.
        _run(symbols, uniform, float(temperature), self._drawn, self._length, *self._arrays, self._logits)
        self._drawn += len(uniform)
        self._last = symbols[-1]
        return symbols[1:]

    @property
    def logits(self) -> Float32[Array, "b k"]:
        """Logits from which the last symbols were drawn."""
        return self._logits
