"""Bits/dim of held-out data: rate and distortion apart, one row for each prior."""

from __future__ import annotations

import math
from typing import NotRequired, TypedDict, final

import torch
from torch import Tensor

from smalti.interfaces import Measured, SignalSpec


class PriorDensity(TypedDict):
    """What was measured with one prior: bits/dim, its two parts and its error, and nats for each code."""

    bits_per_dim: float
    rate: float
    distortion: float
    stderr: float | None
    """Over items; None where there is but one."""
    nats_per_code: NotRequired[float]
    """Of models with codes."""


@final
class Density:
    """Collects bounds -log2 p(x) <= rate + distortion over a split, in bits for each dimension.

    Args:
        signal: whose number of dimensions divides.
    """

    def __init__(self, signal: SignalSpec) -> None:
        self._signal = signal
        self._rates: dict[str, list[Tensor]] = {}
        self._distortions: dict[str, list[Tensor]] = {}
        self._codes_each: int | None = None

    @torch.no_grad()
    def update(self, measured: Measured) -> None:
        """Add what was measured of a batch."""
        if measured.codes is not None:
            self._codes_each = measured.codes[0].numel()
        for name, bound in measured.bounds.items():
            self._rates.setdefault(name, []).append(bound.rate.double().cpu())
            self._distortions.setdefault(name, []).append(bound.distortion.double().cpu())

    def compute(self) -> dict[str, PriorDensity]:
        """What was measured, for each bound."""
        to_bits = 1 / (self._signal.dims * math.log(2))
        results: dict[str, PriorDensity] = {}
        for name in self._rates:
            rate, distortion = torch.cat(self._rates[name]), torch.cat(self._distortions[name])
            total = (rate + distortion) * to_bits
            results[name] = {
                "bits_per_dim": total.mean().item(),
                "rate": rate.mean().item() * to_bits,
                "distortion": distortion.mean().item() * to_bits,
                "stderr": total.std().item() / math.sqrt(len(total)) if len(total) > 1 else None,
            }
            if self._codes_each is not None:
                results[name]["nats_per_code"] = rate.mean().item() / self._codes_each
        return results
