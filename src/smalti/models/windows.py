"""Signals of any length in windows of one shape, so that their codes do not depend on how they are batched.

The result of a convolution depends, in its last bits, on the shape of its input, since a backend chooses the
algorithm by the shape. So every signal is cut into windows of one length, at positions that are the same for
any signal, and every call has the same number of windows. The windows overlap by the receptive field; of each
code only the one value is used that has its whole receptive field in the window. Therefore the codes of a
signal are the same, to the bit, alone, in a batch with signals of other lengths, and as a stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.locality import Extent
from smalti.core.models import Autoencoder

POSITIONS_AT_ONCE = {"cpu": 1 << 13}
"""Signal positions in a call by type of device: on CPUs, activations that fit the caches are fastest."""
POSITIONS_ELSEWHERE = 1 << 20
LEAST_POSITIONS = 1 << 6
"""Least number of positions of a window, without its overlap."""
MOST_POSITIONS = 1 << 20
"""Most positions of a window, unless the overlap has more: of large frames, few are encoded together."""
OVERLAPS = 16
"""Number of codes of a window for each code of overlap, within these limits."""

Read = Callable[[int, int], Float[Tensor, "c n *size"]]
"""Returns positions `[begin, end)` of a signal in the model's range, padded to whole codes."""


@final
@dataclass(slots=True, eq=False)
class Window:
    """A window of a signal.

    Attributes:
        signal: the values that are known, `(C, n, *size)`, with n at most the length of a window.
        first: position of the first of them in the window.
        begin: first code in the window that belongs to the signal.
        end: code after the last one.
        codes: the codes to compute, counted in the window.
        item: number of the signal.
    """

    signal: Float[Tensor, "c n *size"]
    first: int
    begin: int
    end: int
    codes: slice
    item: int = 0


def shape_of_calls(
    overlap: int, positions: int, device: torch.device, most_positions: int = MOST_POSITIONS
) -> tuple[int, int]:
    """Choose the number of codes that a window is responsible for, and the number of windows in a call.

    Args:
        overlap: codes of a window beside these.
        positions: of the signal for each code along the first axis.
        device: of the model.
        most_positions: of a window, unless the overlap has more.
    """
    fewest, most = -(-LEAST_POSITIONS // positions), most_positions // positions
    codes = max(fewest, overlap, min(OVERLAPS * overlap, most))
    at_once = POSITIONS_AT_ONCE.get(device.type, POSITIONS_ELSEWHERE)
    return codes, max(1, at_once // ((codes + overlap) * positions))


@final
class Windows:
    """Cuts signals into windows of one shape, and encodes these.

    Args:
        model: with a receptive field, in evaluation mode.
        size: of a signal, without its first axis.
    """

    def __init__(self, model: Autoencoder, size: Sequence[int] = ()) -> None:
        field = model.receptive_field
        assert field is not None
        self._model, self.stride, self._others = model, model.stride, tuple(size)
        self.device = next(model.parameters()).device
        self.before, self.after = (-(-reach // self.stride) for reach in (field.before, field.after))
        self.codes, self.rows = shape_of_calls(
            self.before + self.after, self.stride * math.prod(size), self.device
        )
        """Codes that a window is responsible for, and windows in a call."""
        self.size = self.before + self.codes + self.after
        """Codes of a window, with the overlap on both sides."""
        self._rows: Tensor | None = None

    @property
    def no_codes(self) -> Int64[Tensor, "g 0 *grid"]:
        """Codes of no position."""
        grid = self._model.encoder.grid((self.stride, *self._others))
        return torch.empty(self._model.num_codebooks, 0, *grid[1:], dtype=torch.int64)

    def count(self, num_codes: int) -> int:
        """Return the number of windows of a signal of so many codes."""
        return -(-num_codes // self.codes)

    def of(self, read: Read, num_codes: int, item: int = 0) -> Iterator[Window]:
        """Yield the windows of a signal.

        Args:
            read: returns a part of the signal.
            num_codes: of the signal.
            item: number of the signal.
        """
        for number in range(self.count(num_codes)):
            yield self.window(number, read, num_codes * self.stride, num_codes, item)

    def window(
        self, number: int, read: Read, known: int, num_codes: int | None = None, item: int = 0
    ) -> Window:
        """Cut one window of a signal.

        Args:
            number: of the window.
            read: returns a part of the signal.
            known: positions of the signal that can be read.
            num_codes: of the signal; None if it goes on beyond them.
            item: number of the signal.
        """
        start = number * self.codes - self.before
        first = max(0, start)
        stop = min((start + self.size) * self.stride, known)
        ahead = self.size if num_codes is None else num_codes - start
        return Window(
            read(first * self.stride, stop),
            (first - start) * self.stride,
            first - start,
            min(self.size, ahead),
            slice(self.before, min(self.before + self.codes, ahead)),
            item,
        )

    def encode(
        self, windows: Iterable[Window], conditions: Conditions | None = None
    ) -> Iterator[Int64[Tensor, "g n *grid"]]:
        """Yield the codes that each window is responsible for, in order.

        Args:
            windows: of any signals.
            conditions: of each signal, by its number; None if there are none.
        """
        remaining = iter(windows)
        while group := list(islice(remaining, self.rows)):
            given = conditions.part(self._items(group)) if conditions else None
            codes = self._model.encode_within(self._stacked(group), self._extent(group), given)
            for row, window in enumerate(group):
                yield codes[row, :, window.codes]

    def _stacked(self, group: Sequence[Window]) -> Float[Tensor, "b c n *size"]:
        """Stack windows to the shape of every call."""
        like = group[0].signal
        shape = (self.rows, like.shape[0], self.size * self.stride, *like.shape[2:])
        # One buffer, since new pages of memory for each call take as long as a layer.
        if self._rows is None or self._rows.dtype != like.dtype or self._rows.device != like.device:
            self._rows = like.new_empty(shape)
        rows = self._rows
        for row, window in zip(rows, group, strict=False):
            end = window.first + window.signal.shape[1]
            row[:, window.first : end] = window.signal
            if window.first or end < row.shape[1]:
                row[:, : window.first] = row[:, end:] = 0
        rows[len(group) :] = 0
        return rows.to(self.device)

    def _extent(self, group: Sequence[Window]) -> Extent:
        unused = [(0, 0)] * (self.rows - len(group))
        return Extent((*((each.begin, each.end) for each in group), *unused), self.size)

    def _items(self, group: Sequence[Window]) -> Int64[Tensor, " b"]:
        """Number of the signal of each row; rows that are not used have that of the first one."""
        items = [window.item for window in group]
        return torch.tensor(items + items[:1] * (self.rows - len(group)), device=self.device)


def encode_each(
    model: Autoencoder,
    reads: Sequence[Read],
    sizes: Sequence[Sequence[int]],
    conditions: Conditions | None = None,
) -> list[Int64[Tensor, " g *grid"]]:
    """Encode signals that may differ in size; none of the codes depends on the other signals.

    Args:
        model: with a receptive field, in evaluation mode.
        reads: returns a part of each signal.
        sizes: of each signal; the first side is a multiple of the model's stride.
        conditions: of each signal.
    """
    codes: list[Tensor] = [torch.empty(0)] * len(reads)
    members: dict[tuple[int, ...], list[int]] = {}
    for index, (_, *size) in enumerate(sizes):
        members.setdefault(tuple(size), []).append(index)
    for size, chosen in members.items():
        windows = Windows(model, size)
        lengths = {index: sizes[index][0] // model.stride for index in chosen}
        cut = (each for i in chosen for each in windows.of(reads[i], lengths[i], i))
        made = windows.encode(cut, conditions)
        for i in chosen:
            codes[i] = torch.cat(list(islice(made, windows.count(lengths[i]))), 1)
    return codes


def encode_batch(
    model: Autoencoder, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
) -> Int64[Tensor, "b g *grid"]:
    """Encode signals of one size in windows; the codes of each are those of `encode_each`."""

    def read(row: int) -> Read:
        return lambda begin, end: signal[row, :, begin:end]

    reads = [read(row) for row in range(len(signal))]
    return torch.stack(encode_each(model, reads, [tuple(signal.shape[2:])] * len(reads), conditions))
