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
class Windows:
    """Consecutive windows of a signal.

    Attributes:
        signal: the values that are known, `(C, n, *size)`, within the windows.
        first: position of the first of them, counted from the beginning of the first window.
        bounds: of each window, its first code that belongs to the signal, and the one after the last.
        codes: the codes to compute, of those that the windows are responsible for.
        item: number of the signal.
    """

    signal: Float[Tensor, "c n *size"]
    first: int
    bounds: tuple[tuple[int, int], ...]
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
class WindowedEncoder:
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

    def of(self, read: Read, num_codes: int, item: int = 0, used: int = 0) -> Iterator[Windows]:
        """Yield the windows of a signal, as many at a time as have room in a call.

        Args:
            read: returns a part of the signal.
            num_codes: of the signal.
            item: number of the signal.
            used: number of windows of other signals in the first call.
        """
        number, total, room = 0, self.count(num_codes), self.rows - used
        while number < total:
            count = min(room, total - number)
            yield self.windows(number, read, num_codes * self.stride, num_codes, item, count)
            number, room = number + count, self.rows

    def windows(
        self,
        number: int,
        read: Read,
        known: int,
        num_codes: int | None = None,
        item: int = 0,
        count: int = 1,
    ) -> Windows:
        """Cut consecutive windows of a signal.

        Args:
            number: of the first window.
            read: returns a part of the signal.
            known: positions of the signal that can be read.
            num_codes: of the signal; None if it goes on beyond them.
            item: number of the signal.
            count: number of windows.
        """
        start = number * self.codes - self.before
        first = max(0, start)
        span = (count - 1) * self.codes + self.size
        end = start + span if num_codes is None else num_codes
        starts = range(start, start + count * self.codes, self.codes)
        return Windows(
            read(first * self.stride, min((start + span) * self.stride, known)),
            (first - start) * self.stride,
            tuple((max(0, -each), min(self.size, end - each)) for each in starts),
            slice(0, min(count * self.codes, end - number * self.codes)),
            item,
        )

    def encode(
        self, windows: Iterable[Windows], conditions: Conditions | None = None
    ) -> Iterator[Int64[Tensor, "g n *grid"]]:
        """Yield the codes that the windows are responsible for, in order.

        Args:
            windows: of any signals, at most as many together as have room in a call.
            conditions: of each signal, by its number; None if there are none.
        """
        group: list[Windows] = []
        used = 0
        for each in windows:
            if used + len(each.bounds) > self.rows:
                yield from self._encoded(group, conditions)
                group, used = [], 0
            group.append(each)
            used += len(each.bounds)
        if group:
            yield from self._encoded(group, conditions)

    def _encoded(
        self, group: Sequence[Windows], conditions: Conditions | None
    ) -> Iterator[Int64[Tensor, "g n *grid"]]:
        bounds = [own for each in group for own in each.bounds]
        unused = self.rows - len(bounds)
        given = None
        if conditions:
            # Rows that are not used have the conditions of the first one.
            items = [each.item for each in group for _ in each.bounds] + [group[0].item] * unused
            given = conditions.part(torch.tensor(items, device=self.device))
        reach = max(self.before, self.after)
        extent = Extent((*bounds, *[(0, 0)] * unused), self.size, reach, is_clear=True)
        codes = self._model.encode_within(self._stacked(group), extent, given)
        own = codes[:, :, self.before : self.before + self.codes]
        row = 0
        for each in group:
            part = own[row : row + len(each.bounds)].transpose(0, 1).flatten(1, 2)
            yield part[:, each.codes]
            row += len(each.bounds)

    def _stacked(self, group: Sequence[Windows]) -> Float[Tensor, "b c n *size"]:
        """Stack windows to the shape of every call."""
        like = group[0].signal
        length, step = self.size * self.stride, self.codes * self.stride
        # One buffer, since new pages of memory for each call take as long as a layer.
        if self._rows is None or self._rows.dtype != like.dtype or self._rows.device != like.device:
            self._rows = like.new_empty(self.rows, like.shape[0], length, *like.shape[2:])
        rows, row = self._rows, 0
        for each in group:
            count, signal = len(each.bounds), each.signal
            span = (count - 1) * step + length
            if signal.shape[1] < span:
                signal = like.new_zeros(like.shape[0], span, *like.shape[2:])
                signal[:, each.first : each.first + each.signal.shape[1]] = each.signal
            rows[row : row + count] = signal.unfold(1, length, step).movedim(1, 0).movedim(-1, 2)
            row += count
        rows[row:] = 0
        return rows.to(self.device)


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
    parts: list[list[Tensor]] = [[] for _ in reads]
    members: dict[tuple[int, ...], list[int]] = {}
    for index, (_, *size) in enumerate(sizes):
        members.setdefault(tuple(size), []).append(index)
    for size, chosen in members.items():
        encoder, items = WindowedEncoder(model, size), list[int]()

        def cut(encoder: WindowedEncoder, chosen: list[int], items: list[int]) -> Iterator[Windows]:
            used = 0
            for item in chosen:
                for each in encoder.of(reads[item], sizes[item][0] // encoder.stride, item, used):
                    items.append(item)
                    used = (used + len(each.bounds)) % encoder.rows
                    yield each

        for number, codes in enumerate(encoder.encode(cut(encoder, chosen, items), conditions)):
            parts[items[number]].append(codes)
    return [own[0] if len(own) == 1 else torch.cat(own, 1) for own in parts]


def encode_batch(
    model: Autoencoder, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
) -> Int64[Tensor, "b g *grid"]:
    """Encode signals of one size in windows; the codes of each are those of `encode_each`."""

    def read(row: int) -> Read:
        return lambda begin, end: signal[row, :, begin:end]

    reads = [read(row) for row in range(len(signal))]
    return torch.stack(encode_each(model, reads, [tuple(signal.shape[2:])] * len(reads), conditions))
