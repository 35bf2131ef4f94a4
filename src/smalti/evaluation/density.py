"""Bits/dim of held-out data: rate and distortion apart, one row for each prior."""

from __future__ import annotations

import math
from typing import NotRequired, TypedDict, final

import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.core.results import Measured
from smalti.core.signals import SignalSpec


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
        self._dims: list[Tensor] = []
        self._codes = 0
        self._code_nats: dict[str, float] = {}

    @torch.no_grad()
    def update(self, measured: Measured, lengths: Int64[Tensor, " b"] | None = None) -> None:
        """Add what was measured of a batch.

        Args:
            measured: bounds and codes.
            lengths: of each item on its first axis; None for the signal's own size.
        """
        if not measured.bounds:
            return
        num = len(next(iter(measured.bounds.values())).rate)
        each = self._signal.dims // self._signal.size[0]
        if lengths is None:
            lengths = torch.full((num,), self._signal.size[0])
        self._dims.append(lengths.cpu() * each)
        if measured.codes is not None:
            self._codes += measured.codes.numel()
        for name, bound in measured.bounds.items():
            self._rates.setdefault(name, []).append(bound.rate.double().cpu())
            self._code_nats[name] = self._code_nats.get(name, 0.0) + float(
                (bound.rate - bound.labels).double().sum()
            )
            self._distortions.setdefault(name, []).append(bound.distortion.double().cpu())

    def compute(self) -> dict[str, PriorDensity]:
        """What was measured, for each bound: all bits over all dimensions, so that long items count more."""
        if not self._dims:
            return {}
        dims = torch.cat(self._dims).double()
        to_bits = 1 / (dims.mean().item() * math.log(2))
        results: dict[str, PriorDensity] = {}
        for name in self._rates:
            rate, distortion = torch.cat(self._rates[name]), torch.cat(self._distortions[name])
            total = (rate + distortion) * to_bits
            # Of a ratio of two sums: for items of one size it is that of the mean.
            error = total - total.mean() * dims / dims.mean()
            num = len(total)
            stderr = math.sqrt(error.square().sum().item() / (num - 1) / num) if num > 1 else None
            results[name] = {
                "bits_per_dim": total.mean().item(),
                "rate": rate.mean().item() * to_bits,
                "distortion": distortion.mean().item() * to_bits,
                "stderr": stderr,
            }
            if self._codes:
                results[name]["nats_per_code"] = self._code_nats[name] / self._codes
        return results
