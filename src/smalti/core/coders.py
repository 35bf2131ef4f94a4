"""The interface between models and entropy coders: symbols, each coded under its distribution.

A model walks over the symbols of a batch in a fixed order, and passes the distribution of each to a coder.
The same walk therefore encodes known symbols and decodes unknown ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32, Int64
from torch import Tensor

RADIX = 16
"""A level is coded as digits of this base, so that the masses of all levels need not be computed."""
LEAST = 1e-30
"""Mass added to every symbol before normalisation, so that a distribution never has a total of zero."""
MOST_UNIFORM = 1 << 16
"""Largest alphabet of one uniform symbol; symbols of a larger one are coded digit by digit."""


class SymbolCoder(ABC):
    """Codes groups of symbols, in sequence, each symbol under its distribution.

    Every method takes the symbols as int64 and returns nothing: an encoder reads them, a decoder sets them
    in place, so a view of a larger tensor may be passed. The order of the groups, their sizes and every mass,
    to the last bit, must be the same on both sides.
    """

    @abstractmethod
    def code(
        self, symbols: Int32[np.ndarray, " n"], masses: Float64[np.ndarray, "*n k"]
    ) -> Int32[np.ndarray, " n"]:
        """Code symbols and return them.

        Args:
            symbols: in [0, K); ignored by a decoder.
            masses: positive, not necessarily normalised; one distribution per symbol, or one for all, `(K,)`.
        """

    def categorical(self, symbols: Int64[Tensor, "*n"], masses: Float[Tensor, "*m k"]) -> None:
        """Code symbols out of a table of masses.

        Args:
            symbols: in [0, K).
            masses: not negative; one distribution per symbol, `(*n, K)`, or one for all, `(K,)`.
        """
        table = masses.double() + LEAST
        rows = table.reshape(-1, table.shape[-1]) if table.ndim > 1 else table
        coded = self.code(_flat(symbols), np.ascontiguousarray(rows.cpu().numpy()))
        _set(symbols, torch.from_numpy(coded))

    def uniform(self, symbols: Int64[Tensor, "*n"], num: int) -> None:
        """Code symbols that are equally probable out of `num`."""
        if num == 1:
            symbols.zero_()
        elif num <= MOST_UNIFORM:
            self.categorical(symbols, torch.ones(num))
        else:
            self.levels(symbols, lambda edge: edge.double() / num, num)

    def levels(
        self,
        symbols: Int64[Tensor, "*n"],
        below: Callable[[Int64[Tensor, "*n"]], Float64[Tensor, "*n"]],
        num: int,
    ) -> None:
        """Code ordered levels by their cumulative distribution, digit by digit.

        Args:
            symbols: in [0, num).
            below: maps a level of each symbol, in [1, num), to the probability of a lower one.
            num: number of levels.
        """
        width = 1
        while width < num:
            width *= RADIX
        first = torch.zeros_like(symbols)
        ends = [
            torch.zeros(symbols.shape, dtype=torch.float64),
            torch.ones(symbols.shape, dtype=torch.float64),
        ]
        while width > 1:
            width //= RADIX
            inner = [self._below(below, first + width * part, num) for part in range(1, RADIX)]
            edges = torch.stack([ends[0], *inner, ends[1]], -1)
            digit = ((symbols - first) // width).clamp(0, RADIX - 1)
            self.categorical(digit, edges.diff(dim=-1).clamp_min(0))
            first = first + width * digit
            ends = [edges.gather(-1, (digit + step).unsqueeze(-1)).squeeze(-1) for step in (0, 1)]
        _set(symbols, first)

    @staticmethod
    def _below(
        below: Callable[[Int64[Tensor, "*n"]], Float64[Tensor, "*n"]], edge: Int64[Tensor, "*n"], num: int
    ) -> Float64[Tensor, "*n"]:
        inside = below(edge.clamp(1, max(num - 1, 1)))
        return torch.where(edge < num, inside, 1.0)


def _flat(symbols: Int64[Tensor, "*n"]) -> Int32[np.ndarray, " n"]:
    return np.ascontiguousarray(symbols.reshape(-1).cpu().numpy().astype(np.int32))


def _set(symbols: Int64[Tensor, "*n"], coded: Tensor) -> None:
    symbols.copy_(coded.reshape(symbols.shape))
