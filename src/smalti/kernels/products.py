"""Products of small matrices inside compiled loops, for CPUs, with sums in registers.

numba compiles the loops around the products; the products themselves are LLVM vector code, because a numba
loop over lanes would keep its sums in memory. numba's cache does not notice changes in this file: after a
change, touch the files of the loops as well.

`no_type_check` exempts functions that numba compiles from the run-time type checks of the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, no_type_check

import numba
import numpy as np
from llvmlite import binding, ir
from numba.extending import intrinsic

LANES = 16
"""Number of float32 values in a vector; CPUs with narrower registers use several for each vector."""
HAS_WIDE_REGISTERS = bool(binding.get_host_cpu_features().get("avx512f"))
"""True if one register holds a vector."""

SINGLE, WHOLE, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOATS, WHOLES = ir.VectorType(SINGLE, LANES), ir.VectorType(WHOLE, LANES)


class Emitter:
    """Emits LLVM vector code. Addresses point to 4-byte values; offsets count values.

    Args:
        builder: llvmlite IR builder that receives the code.
    """

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def load(self, address: Any, offset: Any, kind: Any = FLOATS) -> Any:
        """Load a vector, or a single value, from memory that may be unaligned."""
        value = self.builder.load(self._at(address, offset, kind))
        value.align = 4
        return value

    def store(self, value: Any, address: Any, offset: Any) -> None:
        """Store a vector to memory that may be unaligned."""
        self.builder.store(value, self._at(address, offset, value.type)).align = 4

    def splat(self, value: Any, kind: Any = FLOATS) -> Any:
        """Create a vector of equal values."""
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, value, WHOLE(0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(WHOLES, [0] * LANES))

    def product(
        self,
        sums: dict[tuple[int, int], Any],
        x: Any,
        x_stride: Any,
        weight: Any,
        weight_stride: Any,
        inputs: Any,
    ) -> dict[tuple[int, int], Any]:
        """Compute sums[row, vector] + sum over i of x[row, i] weight[i, vector].

        Args:
            sums: initial values of the sums; together they must fit into the registers.
            x: address of a matrix `(rows, inputs)`.
            x_stride: number of values from one row of `x` to the next.
            weight: address of a matrix `(inputs, vectors * LANES)`.
            weight_stride: number of values from one row of `weight` to the next.
            inputs: number of terms, at least 1.
        """
        builder = self.builder
        rows, vectors = (sorted({pair[axis] for pair in sums}) for axis in (0, 1))
        before = builder.block
        loop, after = builder.append_basic_block("product"), builder.append_basic_block("summed")
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(LONG)
        index.add_incoming(LONG(0), before)
        so_far = {pair: builder.phi(FLOATS) for pair in sums}
        begin = builder.mul(index, weight_stride)
        weights = [self.load(weight, builder.add(begin, LONG(vector * LANES))) for vector in vectors]
        further = {}
        for row in rows:
            place = builder.add(builder.mul(x_stride, LONG(row)), index)
            value = self.splat(self.load(x, place, SINGLE))
            for vector in vectors:
                term = builder.fmul(value, weights[vector], flags=["contract"])
                further[row, vector] = builder.fadd(term, so_far[row, vector], flags=["contract"])
        following = builder.add(index, LONG(1))
        index.add_incoming(following, loop)
        for pair, phi in so_far.items():
            phi.add_incoming(sums[pair], before)
            phi.add_incoming(further[pair], loop)
        builder.cbranch(builder.icmp_signed("<", following, inputs), loop, after)
        builder.position_at_end(after)
        return further

    def _at(self, address: Any, offset: Any, kind: Any) -> Any:
        byte = self.builder.add(address, self.builder.mul(offset, LONG(4)))
        return self.builder.inttoptr(byte, kind.as_pointer())


def block_product(rows: int, vectors: int) -> Callable[..., None]:
    """Create an operation out[r, o] += x[r] @ weight[:, o] for compiled loops.

    The operation takes addresses and row strides, `(out, out_stride, x, x_stride, weight, weight_stride,
    inputs)`, with at least one input.

    Args:
        rows: number of rows of `out` and `x`.
        vectors: number of columns of `out` and `weight`, in vectors of `LANES` values.
    """

    @intrinsic
    @no_type_check
    def block(typing_context, out, out_stride, x, x_stride, weight, weight_stride, inputs):
        signature = numba.types.void(out, out_stride, x, x_stride, weight, weight_stride, inputs)

        def generate(context, builder, signature, arguments):
            out, out_stride, x, x_stride, weight, weight_stride, inputs = arguments
            emit = Emitter(builder)
            places = {
                (row, vector): builder.add(builder.mul(out_stride, LONG(row)), LONG(vector * LANES))
                for row in range(rows)
                for vector in range(vectors)
            }
            sums = {pair: emit.load(out, place) for pair, place in places.items()}
            for pair, value in emit.product(sums, x, x_stride, weight, weight_stride, inputs).items():
                emit.store(value, out, places[pair])
            return context.get_dummy_value()

        return signature, generate

    return block


ROWS, VECTORS = 4, 4 if HAS_WIDE_REGISTERS else 1
PANEL = VECTORS * LANES
_four_rows, _one_row, _one_vector = (
    block_product(ROWS, VECTORS),
    block_product(1, VECTORS),
    block_product(1, 1),
)


def in_panels(weight: np.ndarray) -> np.ndarray:
    """Rearrange a weight `(..., inputs, outputs)` to contiguous panels `(..., panels, inputs, PANEL)`.

    The last panel is padded with zero columns.
    """
    outputs = weight.shape[-1]
    padded = np.zeros((*weight.shape[:-1], -(-outputs // PANEL) * PANEL), np.float32)
    padded[..., :outputs] = weight
    by_panel = padded.reshape(*weight.shape[:-1], -1, PANEL)
    return np.ascontiguousarray(np.moveaxis(by_panel, -2, -3))


@numba.njit
@no_type_check
def add_panels(out: Any, panels: Any, x: Any) -> None:
    """Compute out += x @ weight for float32 matrices; `panels` is the weight after `in_panels`.

    The rows of `out` and `x` must be contiguous, and may have any stride.
    """
    rows, outputs = out.shape
    count, inputs, _ = panels.shape
    from_row = x.strides[0] // 4
    rest = np.zeros((rows, PANEL), np.float32) if outputs % PANEL else np.zeros((0, 0), np.float32)
    for number in range(count):
        panel = panels[number].ctypes.data
        is_whole = (number + 1) * PANEL <= outputs
        target = out[:, number * PANEL :].ctypes.data if is_whole else rest.ctypes.data
        to_row = out.strides[0] // 4 if is_whole else PANEL
        row = 0
        while row + ROWS <= rows:
            source = x[row:].ctypes.data
            _four_rows(target + 4 * row * to_row, to_row, source, from_row, panel, PANEL, inputs)
            row += ROWS
        while row < rows:
            source = x[row:].ctypes.data
            _one_row(target + 4 * row * to_row, to_row, source, from_row, panel, PANEL, inputs)
            row += 1
    for row in range(len(rest)):
        begin = outputs - outputs % PANEL
        for column in range(begin, outputs):
            out[row, column] += rest[row, column - begin]


@numba.njit
@no_type_check
def add_product(out: Any, weight: Any, x: Any) -> None:
    """Compute out += x @ weight in float32: out (outputs,), weight (inputs, outputs), x (inputs,).

    The rows of the weight may have any stride.
    """
    inputs, outputs = weight.shape
    if inputs == 0:
        return
    to_weight = weight.strides[0] // 4
    column = 0
    while column + PANEL <= outputs:
        _one_row(
            out[column:].ctypes.data,
            outputs,
            x.ctypes.data,
            inputs,
            weight[0, column:].ctypes.data,
            to_weight,
            inputs,
        )
        column += PANEL
    while column + LANES <= outputs:
        _one_vector(
            out[column:].ctypes.data,
            outputs,
            x.ctypes.data,
            inputs,
            weight[0, column:].ctypes.data,
            to_weight,
            inputs,
        )
        column += LANES
    for i in range(inputs):
        for o in range(column, outputs):
            out[o] += x[i] * weight[i, o]
