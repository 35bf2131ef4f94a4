"""Bits/dim of held-out data: rate and distortion apart, one row for each prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypedDict, final

import torch
from torch import Tensor

from smalti.interfaces import Autoencoder, Batch, Conditions, Likelihood, Prior


class PriorDensity(TypedDict):
    """What was measured with one prior: bits/dim, its two parts and its error, and nats for each code."""

    bits_per_dim: float
    rate: float
    distortion: float
    stderr: float | None
    """Over items; None where there is but one."""
    nats_per_code: float


@final
class Density:
    """Collects the bound -log2 p(x) <= rate + distortion over a split, in bits for each dimension.

    Args:
        autoencoder: whose codes and likelihoods are given, the same for every prior.
        priors: by the name under which each is reported. Only those that `takes_labels` are told the
            labels of the data.
    """

    def __init__(self, autoencoder: Autoencoder, priors: Mapping[str, Prior]) -> None:
        self._autoencoder, self._priors = autoencoder, priors
        self._distortion: list[Tensor] = []
        self._rates: dict[str, list[Tensor]] = {name: [] for name in priors}

    @torch.no_grad()
    def update(self, batch: Batch, codes: Tensor, likelihood: Likelihood) -> None:
        """Add a batch, with its codes and their likelihood p(x | codes)."""
        self._distortion.append(-likelihood.log_prob(batch.data).double().flatten(1).sum(1).cpu())
        for name, prior in self._priors.items():
            conditions = batch.conditions if prior.takes_labels else Conditions()
            self._rates[name].append(-prior.log_prob(codes, conditions).double().cpu())

    def compute(self) -> dict[str, PriorDensity]:
        """What was measured, for each prior."""
        distortion = torch.cat(self._distortion)
        num_codes = math.prod(self._autoencoder.grid) * self._autoencoder.num_codebooks
        to_bits = 1 / (self._autoencoder.signal.dims * math.log(2))
        results: dict[str, PriorDensity] = {}
        for name, rates in self._rates.items():
            rate = torch.cat(rates)
            total = (rate + distortion) * to_bits
            stderr = total.std().item() / math.sqrt(len(total)) if len(total) > 1 else None
            results[name] = {
                "bits_per_dim": total.mean().item(),
                "rate": rate.mean().item() * to_bits,
                "distortion": distortion.mean().item() * to_bits,
                "stderr": stderr,
                "nats_per_code": rate.mean().item() / num_codes,
            }
        return results
