"""Conversion of signals that arrive in blocks, such as the samples of a microphone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from smalti.core.errors import InputError


class SignalStream(ABC):
    """Converts the blocks of one signal to the range of a model, as they come.

    What `push` and `flush` return, joined, is what `Modality.check` returns for the whole signal.
    """

    @abstractmethod
    def push(self, block: Any) -> Float[Tensor, "1 c _ *size"]:
        """Add a block, and return the positions of the converted signal that it determines.

        Raises:
            InputError: if the type, range or shape is wrong.
        """

    @abstractmethod
    def flush(self) -> Float[Tensor, "1 c _ *size"]:
        """Return the remaining positions, once the signal has ended.

        Raises:
            InputError: if the signal is too short.
        """

    @abstractmethod
    def look_ahead(self, after: int) -> int:
        """Positions of the input that must be known after the span of a code.

        Args:
            after: positions of the converted signal that must be known.
        """


@final
class ElementwiseStream(SignalStream):
    """Stream of a modality that converts each element by itself.

    Args:
        check: the modality's.
        plural_name: of its signals, in messages.
    """

    def __init__(
        self, check: Callable[[Any], list[Float[Tensor, "1 c _ *size"]]], plural_name: str = "signals"
    ) -> None:
        self._check, self._plural_name = check, plural_name
        self._empty: Tensor | None = None

    def push(self, block: Any) -> Float[Tensor, "1 c _ *size"]:
        """Convert a block."""
        checked = self._check(block)
        if len(checked) != 1:
            raise InputError(
                f"expected a block of one signal, received {len(checked)}: open a stream for each"
            )
        size = tuple(checked[0].shape[3:])
        before = size if self._empty is None else tuple(self._empty.shape[3:])
        if size != before:
            raise InputError(
                f"expected a block of the size {before} of the earlier ones, received {size}: open a stream "
                "for each size"
            )
        self._empty = checked[0][:, :, :0]
        return checked[0]

    def flush(self) -> Float[Tensor, "1 c _ *size"]:
        """Return no positions."""
        if self._empty is None:
            raise InputError(
                f"expected blocks of {self._plural_name} before the end, received none: push them"
            )
        return self._empty

    def look_ahead(self, after: int) -> int:
        """As many."""
        return after
