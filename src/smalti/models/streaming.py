"""Encoding of one signal while it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.models import Autoencoder
from smalti.core.precision import full_precision
from smalti.models.windows import WindowedEncoder, Windows


@final
class CodeStream:
    """Codes of a signal that arrives in blocks; each code as soon as its receptive field is known.

    Args:
        model: with a receptive field, in evaluation mode.
        conditions: of the signal; None if there are none.
    """

    def __init__(self, model: Autoencoder, conditions: Conditions | None = None) -> None:
        field = model.receptive_field
        assert field is not None
        self._model, self._after, self._conditions = model, field.after, conditions
        self._windows: WindowedEncoder | None = None
        self._kept: Tensor | None = None
        self._begin = 0
        """Position of the first kept value in the signal."""
        self._done = 0
        """Number of codes that were returned."""

    def push(self, signal: Float[Tensor, "c n *size"]) -> Int64[Tensor, "g _ *grid"]:
        """Add the next positions, and return the codes that they determine.

        Args:
            signal: in the model's range; of any length, also 0.
        """
        if self._windows is None:
            self._windows = WindowedEncoder(self._model, signal.shape[2:])
        self._kept = signal if self._kept is None else torch.cat([self._kept, signal], 1)
        determined = max(0, self.known - self._after) // self._model.stride
        return self._codes(self._windows, max(self._done, determined), is_end=False)

    def flush(self, signal: Float[Tensor, "c n *size"]) -> Int64[Tensor, "g _ *grid"]:
        """Add the last positions, which complete the last code, and return the remaining codes."""
        first = self.push(signal)
        assert self._windows is not None
        return torch.cat(
            [first, self._codes(self._windows, self.known // self._model.stride, is_end=True)], 1
        )

    @property
    def known(self) -> int:
        """Number of positions so far."""
        return self._begin + (0 if self._kept is None else self._kept.shape[1])

    @torch.no_grad()
    def _codes(self, windows: WindowedEncoder, until: int, is_end: bool) -> Int64[Tensor, "g _ *grid"]:
        """Compute the codes from the first one that was not returned, and drop what no other code needs."""
        with full_precision(self._model):
            cut = self._cut(windows, until, is_end)
            made = [one.cpu() for one in windows.encode(cut, self._conditions)]
        self._done = until
        unneeded = max(0, until // windows.codes * windows.codes - windows.before) * windows.stride
        if unneeded > self._begin:
            assert self._kept is not None
            # A copy, so that the memory of what is dropped is free.
            self._kept = self._kept[:, unneeded - self._begin :].clone()
            self._begin = unneeded
        return torch.cat([windows.no_codes, *made], 1)

    def _cut(self, windows: WindowedEncoder, until: int, is_end: bool) -> Iterator[Windows]:
        """Yield the windows of the codes from the first one that was not returned."""
        for number in range(self._done // windows.codes, windows.count(until)):
            first = number * windows.codes
            window = windows.windows(number, self._read, self.known, until if is_end else None)
            yield replace(window, codes=slice(max(0, self._done - first), min(windows.codes, until - first)))

    def _read(self, begin: int, end: int) -> Float[Tensor, "c n *size"]:
        assert self._kept is not None
        return self._kept[:, begin - self._begin : end - self._begin]
