"""Which part of a signal a code depends on, so that long signals can be encoded and decoded in windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor


@final
@dataclass(frozen=True)
class ReceptiveField:
    """Inputs of a network, along the first axis (time), beside the ones that an output stands for.

    An encoder computes latent n from positions `[n * stride - before, (n + 1) * stride + after)` of a signal.
    A decoder computes positions `[n * stride, (n + 1) * stride)` from latents `n - before` to `n + after`.

    Attributes:
        before: number of earlier inputs.
        after: number of later inputs.
    """

    before: int
    after: int


@final
@dataclass(frozen=True)
class Extent:
    """The part of each window of a batch that lies within its signal, in codes.

    Attributes:
        bounds: of each window, the first code of the signal and the one after the last.
        size: number of codes in a window.
        reach: number of codes beyond an end that outputs within the signal depend on; None for any number.
        is_clear: whether the values of the input beyond the ends are zero already.
    """

    bounds: tuple[tuple[int, int], ...]
    size: int
    reach: int | None = None
    is_clear: bool = False

    @property
    def is_whole(self) -> bool:
        """True if no window reaches beyond its signal."""
        return all(bounds == (0, self.size) for bounds in self.bounds)

    def clear(self, x: Float[Tensor, "b c n *size"]) -> None:
        """Set activations within reach beyond the ends of each signal to zero, in place, as a layer pads.

        Args:
            x: activations of the windows, with n a multiple of their number of codes.
        """
        positions_per_code = x.shape[2] // self.size
        reach = self.size if self.reach is None else self.reach
        for row, (begin, end) in enumerate(self.bounds):
            if begin > 0:
                x[row, :, max(0, begin - reach) * positions_per_code : begin * positions_per_code] = 0
            if end < self.size:
                x[row, :, end * positions_per_code : (end + reach) * positions_per_code] = 0
