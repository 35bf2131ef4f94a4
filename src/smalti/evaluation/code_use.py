"""Reliance of a decoder on its codes: its distortion with the true codes, shuffled codes, and no codes.

An autoregressive decoder can model the signal without codes, and may learn to ignore them. In that case
shuffled codes give the same distortion as the true ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.core.conditions import Batch, Conditions
from smalti.core.parts import Likelihood
from smalti.core.signals import SignalSpec
from smalti.core.units import per_dim, sum_over_items

APART = 64
"""Distance in items between an item and the item that supplies its shuffled codes."""
KINDS = ("true", "shuffled", "none")


@runtime_checkable
class DecodesWithoutCodes(Protocol):
    """An autoencoder that may also have learned p(x | no codes), by code dropout in training."""

    signal: SignalSpec

    def likelihood(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions | None = None
    ) -> Likelihood:
        """p(x | codes, conditions)."""
        ...

    def likelihood_without_codes(
        self, num: int, grid: Sequence[int], conditions: Conditions | None = None
    ) -> Likelihood | None:
        """p(x | no codes, conditions) of `num` signals with this code grid; None if not learned."""
        ...


@final
class CodeUse:
    """Accumulates the distortions of an autoencoder with true codes, shuffled codes, and no codes.

    Args:
        model: in evaluation mode. The results are empty if it did not learn to decode without codes.
    """

    def __init__(self, model: DecodesWithoutCodes) -> None:
        self._model = model
        self._nats: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._dims = 0
        self._before: deque[Tensor] = deque(maxlen=APART)

    @torch.no_grad()
    def update(self, batch: Batch, codes: Int64[Tensor, "b g *grid"]) -> None:
        """Add a batch and its codes.

        The shuffled codes of an item are those of the item `APART` before it, or of the first item if there
        are fewer (adjacent files of a folder may have the same content), repeated or cut to its length. The
        first item has no predecessor and is skipped.
        """
        others = []
        for own in codes.split(1):
            if self._before:
                others.append(_fitted(self._before[0], codes.shape[2]))
            self._before.append(own)
        if not others:
            return
        shuffled = torch.cat(others)
        first = len(codes) - len(shuffled)
        data, codes = batch.data[first:], codes[first:]
        lengths = None if batch.lengths is None else batch.lengths[first:]
        mask = None if batch.mask is None else batch.mask[first:]
        conditions = batch.conditions.part(slice(first, None))
        without = self._model.likelihood_without_codes(len(data), codes.shape[2:], conditions)
        if without is None:
            return
        likelihoods = {
            "true": self._model.likelihood(codes, conditions),
            "shuffled": self._model.likelihood(shuffled, conditions),
            "none": without,
        }
        for kind, likelihood in likelihoods.items():
            self._nats[kind] -= sum_over_items(likelihood.log_prob(data), lengths, mask).double().sum().item()
        self._dims += int(Batch(data, lengths=lengths, mask=mask).num_values().sum())

    def compute(self) -> dict[str, float]:
        """Distortion with each kind of codes: bits/dim, or nats/dim for a continuous domain."""
        if not self._dims:
            return {}
        domain = self._model.signal.domain
        return {f"distortion_{kind}": per_dim(nats, self._dims, domain) for kind, nats in self._nats.items()}

    @staticmethod
    def protocol() -> dict[str, str]:
        """Definition of each figure."""
        return {
            "distortion_true": "-log2 p(x | its own codes) / dims, over the same items as the next two",
            "distortion_shuffled": f"the same with the codes of the item {APART} before, or of the first, "
            "repeated or cut to length",
            "distortion_none": "the same without codes, which the decoder learned by code_dropout",
        }


def _fitted(codes: Int64[Tensor, "b g n *others"], length: int) -> Int64[Tensor, "b g _ *others"]:
    """Repeat or cut codes to a length on the first axis of their grid."""
    repeats = -(-length // codes.shape[2])
    return torch.cat([codes] * repeats, 2)[:, :, :length]
