"""What a network is conditioned on, and a batch of data with its conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Conditions:
    """What a network is told beside its input.

    Attributes:
        labels: class (of speech: speaker) of each item, int64 `(B,)`; -1 means "not given". None when no
            item has one.
        local: what is told of each stretch of the input, `(B, P, *coarse)`, where every axis of `coarse`
            divides that of the input: an autoregressive decoder's upsampled latents. None when there is none.
        voices: what an encoder of speech knows of each item's speaker, `(B, V)`; None where it has to find it
            in the item itself.
        actions: of clips, what is done at each frame (the next one shows what came of it), int64 `(B, F)`; -1
            means "not given". None when no clip has any.
    """

    labels: Int64[Tensor, " b"] | None = None
    local: Float[Tensor, "b p *coarse"] | None = None
    voices: Float[Tensor, "b v"] | None = None
    actions: Int64[Tensor, "b f"] | None = None

    def part(self, first: int) -> Conditions:
        """Those of the items from `first` on."""
        return self._each(lambda tensor: tensor[first:])

    def to(self, device: torch.device) -> Conditions:
        """The same conditions on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        given = (self.labels, self.local, self.voices, self.actions)
        return Conditions(*(None if tensor is None else change(tensor) for tensor in given))


@dataclass(frozen=True)
class Batch:
    """One batch, ready for a model.

    Attributes:
        data: signals in their model range, or codes for a prior.
        conditions: what is told beside them.
        lengths: of each item on its first axis after the channels (time), int64 `(B,)`, where items end
            before the batch does; what follows an item is padding, and does not count. None when all fill
            the batch.
    """

    data: Tensor
    conditions: Conditions = field(default_factory=Conditions)
    lengths: Int64[Tensor, " b"] | None = None
