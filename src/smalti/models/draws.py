"""Bounds on ln p(x) from draws of a posterior."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from smalti.core.results import Bound


@final
class DrawnBounds:
    """Collects draws z of q(z | x) for each item of a batch.

    plain:     E_q[ln p(x|z) + ln p(z) - ln q(z|x)], averaged over the draws (each is a bound by itself)
    weighted:  ln of the mean over S draws of p(x|z) p(z) / q(z|x), which is tighter (Burda et al. 2016)
    """

    def __init__(self) -> None:
        self._distortions: list[Tensor] = []
        self._rates: list[Tensor] = []

    def add(self, distortion: Tensor, rate: Tensor) -> None:
        """One draw of each item: -ln p(x | z) and ln q(z | x) - ln p(z), nats `(B,)`."""
        self._distortions.append(distortion)
        self._rates.append(rate)

    def average(self) -> Bound:
        """The plain bound."""
        return Bound(torch.stack(self._rates).mean(0), torch.stack(self._distortions).mean(0))

    def weighted(self, prior: str) -> dict[str, Bound]:
        """The weighted bound under its name, if there is more than one draw.

        Its distortion is the draws' average by their normalised weights; the rest of the bound is its rate.
        """
        draws = len(self._rates)
        if draws < 2:
            return {}
        rates, distortions = torch.stack(self._rates), torch.stack(self._distortions)
        log_weights = -(rates + distortions)
        bound = torch.logsumexp(log_weights, 0) - math.log(draws)
        distortion = (log_weights.softmax(0) * distortions).sum(0)
        return {f"{prior}, {draws} draws": Bound(-bound - distortion, distortion)}
