"""Codes of several grid levels packed in one tensor over the coarsest grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """Layout of the codes of several grids in one tensor `(B, G, *grid)` over the coarsest grid.

    The G codes of a position are the codes of the coarsest level there, followed, level by level, by the
    codes of the block of finer positions that it covers, row-major.

    Attributes:
        num_codebooks: number of codes per position of a level.
        factors: resolution of each level relative to the next coarser one, from the second coarsest level on.
        ndim: number of axes of a grid.
    """

    num_codebooks: int
    factors: tuple[int, ...]
    ndim: int = 2

    def __str__(self) -> str:
        return f"levels of factors {self.factors}"

    @property
    def scales(self) -> tuple[int, ...]:
        """Resolution of each level relative to the coarsest; the first entry is 1."""
        return tuple(itertools.accumulate((1, *self.factors), int.__mul__))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes of each level per position of the coarsest grid."""
        return tuple(self.num_codebooks * scale**self.ndim for scale in self.scales)

    @property
    def codebook_ids(self) -> tuple[int, ...]:
        """Codebook of each of the G codes; each level has `num_codebooks` of its own, the coarsest first."""
        return tuple(
            level * self.num_codebooks + codebook
            for level, scale in enumerate(self.scales)
            for codebook in range(self.num_codebooks)
            for _ in range(scale**self.ndim)
        )

    def grids(self, coarsest: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the grid of each level, given the coarsest."""
        return [tuple(side * scale for side in coarsest) for scale in self.scales]

    def pack(self, levels: Sequence[Tensor]) -> Tensor:
        """Pack one tensor per level, `(B, num_codebooks, *grid, *more)`, to `(B, G, *coarsest, *more)`."""
        return torch.cat([self._pack(x, scale) for x, scale in zip(levels, self.scales, strict=True)], 1)

    def unpack(self, packed: Int64[Tensor, "b g *grid"]) -> list[Int64[Tensor, "b _ ..."]]:
        """Invert `pack` for codes."""
        parts = packed.split(self.sizes, 1)
        return [self._unpack(part, scale) for part, scale in zip(parts, self.scales, strict=True)]

    def order(self, coarsest: Sequence[int]) -> Int64[Tensor, " symbols"]:
        """Return the flat index, position * G + codebook, of each symbol when levels are drawn in order."""
        drawn: list[Tensor] = []
        begin = 0
        for grid in self.grids(coarsest):
            size = self.num_codebooks * math.prod(grid)
            # By position, and by codebook within a position.
            numbers = torch.arange(begin, begin + size).view(1, *grid, self.num_codebooks)
            drawn.append(numbers.movedim(-1, 1))
            begin += size
        return self.pack(drawn).flatten(2).transpose(1, 2).flatten().argsort()

    def _pack(self, x: Tensor, scale: int) -> Tensor:
        for axis in range(self.ndim):
            # (B, C, ..., side * scale, ...) -> (B, C * scale, ..., side, ...)
            x = x.unflatten(2 + axis, (-1, scale)).movedim(3 + axis, 2).flatten(1, 2)
        return x

    def _unpack(self, x: Tensor, scale: int) -> Tensor:
        for axis in reversed(range(self.ndim)):
            x = x.unflatten(1, (-1, scale)).movedim(2, 3 + axis).flatten(2 + axis, 3 + axis)
        return x
