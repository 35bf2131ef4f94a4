"""Codes of any length in windows of one shape, decoded so that no signal depends on how it is batched.

The counterpart of `smalti.models.windows`: windows of codes overlap by the receptive field of the decoder,
and of each decoded position only the one value is used that has its whole receptive field in the window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.locality import Extent
from smalti.core.models import Autoencoder
from smalti.models.windows import MOST_POSITIONS, shape_of_calls

MOST_PIXELS = 1 << 18
"""Most positions of a window of a picture, whose rows need less overlap than the frames of a clip."""


@final
@dataclass(slots=True, eq=False)
class CodeWindow:
    """A window of the codes of a signal.

    Attributes:
        codes: those of the signal in the window, `(G, n, *grid)`.
        first: position of the first of them in the window.
        num: number of codes that the window is responsible for.
        item: number of the signal.
    """

    codes: Int64[Tensor, "g n *grid"]
    first: int
    num: int
    item: int = 0


@final
class CodeWindows:
    """Cuts codes into windows of one shape, and decodes these.

    Args:
        model: with a decoded field, in evaluation mode.
        grid: of a signal, without its first side.
    """

    def __init__(self, model: Autoencoder, grid: Sequence[int] = ()) -> None:
        field = model.decoded_field
        assert field is not None
        self._model, self.stride = model, model.stride
        self.others = [side * stride for side, stride in zip(grid, model.strides[1:], strict=True)]
        """Size of a signal, without its first side."""
        self.device = next(model.parameters()).device
        self.before, self.after = field.before, field.after
        self.own, self.rows = shape_of_calls(
            self.before + self.after,
            self.stride * math.prod(self.others),
            self.device,
            MOST_POSITIONS if model.signal.has_time else MOST_PIXELS,
        )
        """Codes that a window is responsible for, and windows in a call."""
        self.size = self.before + self.own + self.after
        """Codes of a window, with the overlap on both sides."""

    def count(self, num_codes: int) -> int:
        """Return the number of windows of a signal of so many codes."""
        return -(-num_codes // self.own)

    def of(self, parts: Iterable[Int64[Tensor, "g n *grid"]], item: int = 0) -> Iterator[CodeWindow]:
        """Yield the windows of a signal, each as soon as its codes are known.

        Args:
            parts: the codes of the signal, in any number of parts along their first axis.
            item: number of the signal.
        """
        kept: Tensor | None = None
        begin = first = 0  # of the kept codes, and of those of the next window
        for part in parts:
            kept = part if kept is None else torch.cat([kept, part], 1)
            while begin + kept.shape[1] >= first + self.own + self.after:
                yield self._window(kept, begin, first, item)
                first += self.own
                unneeded = max(0, first - self.before) - begin
                kept, begin = kept[:, unneeded:], begin + unneeded
        while kept is not None and first < begin + kept.shape[1]:
            yield self._window(kept, begin, first, item)
            first += self.own

    def _window(self, kept: Int64[Tensor, "g n *grid"], begin: int, first: int, item: int) -> CodeWindow:
        start, known = first - self.before, begin + kept.shape[1]
        inside = kept[:, max(0, start) - begin : start + self.size - begin]
        return CodeWindow(inside, max(0, -start), min(self.own, known - first), item)

    def decode(
        self, windows: Iterable[CodeWindow], conditions: Conditions | None = None
    ) -> Iterator[Float[Tensor, "c n *size"]]:
        """Yield the positions that each window is responsible for, in order.

        Args:
            windows: of any signals.
            conditions: of each signal, by its number; None if there are none.
        """
        remaining = iter(windows)
        while group := list(islice(remaining, self.rows)):
            like = group[0].codes
            rows = like.new_zeros(self.rows, like.shape[0], self.size, *like.shape[2:], device=self.device)
            bounds = [(0, 0)] * self.rows
            for row, window in enumerate(group):
                bounds[row] = window.first, window.first + window.codes.shape[1]
                rows[row, :, slice(*bounds[row])] = window.codes
            items = [window.item for window in group]
            items += items[:1] * (self.rows - len(group))
            given = conditions.part(torch.tensor(items, device=self.device)) if conditions else None
            signals = self._model.decode_within(rows, Extent(tuple(bounds), self.size), given)
            for row, window in enumerate(group):
                yield signals[row, :, self.before * self.stride :][:, : window.num * self.stride]


def decode_batch(
    model: Autoencoder, codes: Int64[Tensor, "b g *grid"], conditions: Conditions | None = None
) -> Float[Tensor, "b c *size"]:
    """Decode codes in windows of one shape: none of the signals depends on the others of the batch.

    Args:
        model: with a decoded field, in evaluation mode.
        codes: of at least one signal, and one position.
        conditions: of each signal.
    """
    windows = CodeWindows(model, codes.shape[3:])
    cut = (window for item, one in enumerate(codes) for window in windows.of([one], item))
    made = windows.decode(cut, conditions)
    decoded: Tensor | None = None
    for item in range(len(codes)):
        begin = 0
        for signal in islice(made, windows.count(codes.shape[2])):
            if decoded is None:
                size = (codes.shape[2] * windows.stride, *windows.others)
                decoded = signal.new_empty(len(codes), signal.shape[0], *size)
            decoded[item, :, begin : begin + signal.shape[1]] = signal
            begin += signal.shape[1]
    assert decoded is not None
    return decoded


def decode_parts(
    model: Autoencoder, parts: Iterable[Int64[Tensor, "1 g _ *grid"]], conditions: Conditions | None = None
) -> Iterator[Float[Tensor, "1 c _ *size"]]:
    """Decode one signal window by window, in bounded memory.

    The blocks, joined along their third axis, are what `decode_batch` returns for all codes, bit for bit.

    Args:
        model: with a decoded field, in evaluation mode.
        parts: the codes of the signal, in any number of parts; each is drawn when it is needed.
        conditions: of the signal.
    """
    remaining = iter(parts)
    first = next(remaining, None)
    if first is None:
        return
    windows = CodeWindows(model, first.shape[3:])
    cut = windows.of(part[0] for part in chain([first], remaining))
    for signal in windows.decode(cut, conditions):
        yield signal.unsqueeze(0)
