"""Bounds on ln p(x) and bits/dim of held-out data: rate and distortion separately, one row per prior.

For draws z_s of the posterior q(z|x), with rate_s = ln q(z_s|x) - ln p(z_s) and distortion_s = -ln p(x|z_s):

    average:              -ln p(x) <= mean_s (rate_s + distortion_s)
    importance-weighted:  -ln p(x) <= -ln 1/S sum_s exp -(rate_s + distortion_s)   (Burda et al. 2016)

both in expectation over the draws. A deterministic encoder is the case of one draw with q(z|x) = 1.

A decoder that is given labels pays for them in the rate. Other conditions that it is given (text, actions, a
field) cost nothing here, so that the bound is one on -ln p(x | conditions), and names them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NotRequired, Protocol, TypeAlias, TypedDict, cast, final, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditioners import readable_conditions
from smalti.core.conditions import Batch, Conditions
from smalti.core.models import LatentVariableModel
from smalti.core.precision import in_full_precision
from smalti.core.priors import DensityPrior
from smalti.core.results import Bound, BoundTerms, Measured
from smalti.core.signals import SignalSpec
from smalti.core.units import log_mean_exp, per_dim

Cost: TypeAlias = float | Float[Tensor, " b"]
"""Cost of labels in nats: one number for all items, or one per item."""


@runtime_checkable
class LabelPrior(Protocol):
    """A joint prior over codes and label, whose density includes the cost of the label."""

    def log_joint(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = ...
    ) -> Float[Tensor, " b"]:
        """ln p(codes, label) of each item, nats."""
        ...


@torch.no_grad()
@in_full_precision
def measure(
    model: LatentVariableModel,
    batch: Batch,
    priors: Sequence[DensityPrior] = (),
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> Measured:
    """Compute bounds with each prior, the reconstruction and the codes of a batch, in one pass.

    Args:
        model: in evaluation mode.
        batch: signals and their conditions. The model gets the conditions that it declares to read (see
            `readable_conditions`); of the priors, only a `LabelPrior` gets labels.
        priors: over the model's codes; a model with continuous latents has its own prior.
        draws: number of posterior draws per item, where the posterior is a distribution.
        generator: of the draws.

    Returns:
        Bounds by name: `NAME` is the average over draws, and `NAME, S draws` the importance-weighted bound
        if the posterior gave more than one draw.
    """
    read = readable_conditions(model)
    # An undeclared condition would be neither paid for nor named. Only encoders read voice statistics.
    conditions = batch.conditions.only(*read, "voice")
    terms = model.bound_terms(replace(batch, conditions=conditions), draws, generator)
    given = sorted(name for name in read & set(conditions) if conditions[name].is_given)
    labels = label_cost(model.num_label_classes, batch.conditions.tensor("label"))
    unpaid = tuple(name for name in given if name != "label" or not model.num_label_classes)
    bounds: dict[str, Bound] = {}
    if terms.latent_prior is not None:
        own = terms.latent_prior
        average = Bound(own.kl + labels, terms.distortions.mean(0), labels, unpaid)
        bounds |= _named(own.name, average, own.rates + labels, terms.distortions)
    if terms.draws is not None:
        for prior in priors:
            pays = isinstance(prior, LabelPrior)
            cost = 0.0 if pays else labels
            rates = _rates(terms, terms.draws, prior, batch.conditions.only("label")) + cost
            average = average_bound(rates, terms.distortions, cost)
            average = replace(average, given=tuple(n for n in unpaid if n != "label" or not pays))
            bounds |= _named(prior.name, average, rates, terms.distortions)
    return Measured(bounds, terms.reconstruction, terms.codes)


def label_cost(num_classes: int, labels: Int64[Tensor, " b"] | None) -> Cost:
    """Cost of transmitting each item's label in nats: p(x) >= p(x | label) / number of labels.

    Args:
        num_classes: number of labels that p(x | z, label) is conditioned on; 0 for none.
        labels: of each item; -1 for an item without a label, which costs nothing.
    """
    if not num_classes or labels is None:
        return 0.0
    return math.log(num_classes) * (labels >= 0)


def average_bound(
    rates: Float[Tensor, "s b"], distortions: Float[Tensor, "s b"], labels: Cost = 0.0
) -> Bound:
    """One-draw bound E_q[rate + distortion], averaged over draws; nats."""
    return Bound(rates.mean(0), distortions.mean(0), labels)


def importance_weighted_bound(
    rates: Float[Tensor, "s b"], distortions: Float[Tensor, "s b"], labels: Cost = 0.0
) -> Bound:
    """Multi-sample bound ln 1/S sum_s p(x|z_s) p(z_s) / q(z_s|x); nats.

    Its distortion is the average over draws with normalised importance weights; its rate is the remainder.
    """
    log_weights = -(rates + distortions)
    distortion = (log_weights.softmax(0) * distortions).sum(0)
    return Bound(-log_mean_exp(log_weights) - distortion, distortion, labels)


def _rates(
    terms: BoundTerms, draws: Int64[Tensor, "s b g *grid"], prior: DensityPrior, conditions: Conditions
) -> Float[Tensor, "s b"]:
    """ln q(z_s|x) - ln p(z_s) of each draw of codes; ln p(z_s, label) for a joint prior."""
    log_prior = [
        prior.log_joint(codes, conditions)
        if isinstance(prior, LabelPrior)
        else prior.log_prob(codes, Conditions())
        for codes in draws
    ]
    return terms.log_posteriors - torch.stack(log_prior).to(terms.log_posteriors)


def _named(
    name: str, average: Bound, rates: Float[Tensor, "s b"], distortions: Float[Tensor, "s b"]
) -> dict[str, Bound]:
    """Name the average bound, and the importance-weighted bound if there is more than one draw."""
    bounds = {name: average}
    if len(rates) > 1:
        weighted = importance_weighted_bound(rates, distortions, average.labels)
        bounds[f"{name}, {len(rates)} draws"] = replace(weighted, given=average.given)
    return bounds


class PriorDensity(TypedDict):
    """Result row of one prior: bits/dim, its rate, distortion and standard error, and nats per code."""

    bits_per_dim: float
    """For exact levels; a row of a continuous domain has `nats_per_dim` instead, with its parts in nats."""
    rate: float
    distortion: float
    stderr: float | None
    """Standard error over items; None for a single item."""
    nats_per_code: NotRequired[float]
    """For models with codes."""
    given: NotRequired[list[str]]
    """Conditions that the decoder was given and the rate does not include: the row bounds p(x | given)."""


@final
class Density:
    """Accumulates bounds over a split: -log2 p(x) <= rate + distortion, in bits per dimension.

    Rows of a decoder that is given conditions which the rate does not include bound -log2 p(x | given).

    Args:
        signal: defines the number of dimensions of an item.
    """

    def __init__(self, signal: SignalSpec) -> None:
        self._signal = signal
        self._rates: dict[str, list[Tensor]] = {}
        self._distortions: dict[str, list[Tensor]] = {}
        self._dims: list[Tensor] = []
        self._codes = 0
        self._code_nats: dict[str, float] = {}
        self._given: dict[str, set[str]] = {}

    @torch.no_grad()
    def update(
        self,
        measured: Measured,
        lengths: Int64[Tensor, " b"] | None = None,
        dims: Int64[Tensor, " b"] | None = None,
    ) -> None:
        """Add the measurements of a batch.

        Args:
            measured: bounds and codes.
            lengths: of each item on its first axis; None for the signal's own size.
            dims: number of observed values in each item, if some are missing; None for all within its length.
        """
        if not measured.bounds:
            return
        num = len(next(iter(measured.bounds.values())).rate)
        each = self._signal.dims // self._signal.size[0]
        if lengths is None:
            lengths = torch.full((num,), self._signal.size[0])
        self._dims.append((lengths * each if dims is None else dims).cpu())
        if measured.codes is not None:
            self._codes += measured.codes.numel()
        for name, bound in measured.bounds.items():
            self._rates.setdefault(name, []).append(bound.rate.double().cpu())
            self._code_nats[name] = self._code_nats.get(name, 0.0) + float(
                (bound.rate - bound.labels).double().sum()
            )
            self._given.setdefault(name, set()).update(bound.given)
            self._distortions.setdefault(name, []).append(bound.distortion.double().cpu())

    def compute(self) -> dict[str, PriorDensity]:
        """One row per bound: total bits over total dimensions, so that long items have more weight."""
        if not self._dims:
            return {}
        dims = torch.cat(self._dims).double()
        mean_dims = dims.mean().item()
        domain = self._signal.domain
        results: dict[str, PriorDensity] = {}
        for name in self._rates:
            rate = per_dim(torch.cat(self._rates[name]), mean_dims, domain)
            distortion = per_dim(torch.cat(self._distortions[name]), mean_dims, domain)
            total = rate + distortion
            # Error of a ratio of two sums; for items of one size, the standard error of the mean.
            error = total - total.mean() * dims / mean_dims
            num = len(total)
            stderr = math.sqrt(error.square().sum().item() / (num - 1) / num) if num > 1 else None
            row: dict[str, object] = {
                f"{domain.unit}_per_dim": total.mean().item(),
                "rate": rate.mean().item(),
                "distortion": distortion.mean().item(),
                "stderr": stderr,
            }
            if self._codes:
                row["nats_per_code"] = self._code_nats[name] / self._codes
            if self._given[name]:
                row["given"] = sorted(self._given[name])
            results[name] = cast("PriorDensity", row)
        return results
