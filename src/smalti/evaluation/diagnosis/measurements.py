"""Measurements of a model's codebooks, from which `smalti.evaluation.diagnosis.rules` draws conclusions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.models import LatentVariableModel
from smalti.core.parts import Quantizer
from smalti.core.precision import full_precision
from smalti.evaluation.codebook import CodebookUse
from smalti.evaluation.diagnosis.probes import (
    Seen,
    ignores_length,
    observed,
    quantizers_of,
    vectors,
    weights_of,
    without,
)
from smalti.nn.symbols import check_counts

MOST_VECTORS = 1 << 16
"""Latent vectors of a quantizer that are kept for its geometry; codes are counted over all items."""
GRADIENT_BATCHES = 4
"""Batches over which gradients and distortions are averaged."""


@final
@dataclass(frozen=True)
class Use:
    """Occurrences of codes in a set of items.

    Attributes:
        counts: of each code, int64 `(codebooks, K)`.
        usage: share of the codes that occur, mean over codebooks.
        perplexity: exp of the entropy of the codes' frequencies, mean over codebooks.
    """

    counts: Int64[Tensor, "c k"]
    usage: float
    perplexity: float

    @property
    def num_tokens(self) -> int:
        """Number of codes counted in the codebook with the fewest."""
        return int(self.counts.sum(1).min().item())

    def to_json(self) -> dict[str, float | int]:
        """Return usage, perplexity, the largest share of a code and the number of codes counted."""
        return {
            "usage": self.usage,
            "perplexity": self.perplexity,
            "top_share": self.top_share,
            "num_tokens": self.num_tokens,
        }

    @property
    def top_share(self) -> float:
        """Share of the positions that the most frequent code takes, in the most uneven codebook."""
        return (self.counts.amax(1) / self.counts.sum(1).clamp_min(1)).max().item()


@final
@dataclass(frozen=True)
class Geometry:
    """Latents compared with the codes that replace them.

    Attributes:
        latent_length: root mean square length of the latents.
        code_length: the same of the codes that replace them.
        error: mean squared distance between the two.
        variance: mean squared distance of the latents from their mean.
        lag: share of `error` that moving each code to the mean of its latents would remove, without the share
            that chance explains; the largest over the codes of a position.
        held_out_error: `error` on held-out items; None without them.
    """

    latent_length: float
    code_length: float
    error: float
    variance: float
    lag: float
    held_out_error: float | None

    @property
    def relative_error(self) -> float:
        """Quantization error as a share of the latents' variance."""
        return self.error / max(self.variance, 1e-30)


@final
@dataclass(frozen=True)
class Codebook:
    """Measurements of one quantizer.

    Attributes:
        name: of its module; empty if it is the model's only quantizer.
        config: its settings.
        num_codes: K.
        use: of the codes, in training items.
        held_out: the same in held-out items; None without them.
        num_tokens: codes of each codebook in the whole training set; None if that is not known.
        geometry: None for quantizers whose codes are not compared with the latents by distance.
        gradients: mean length of the gradient of a position's latents, of the `distortion` and of each term
            of the quantizer's loss, by the setting that is its weight.
        latents: of some positions, `(N, D)`.
        codes: the latents that replace them, `(N, D)`.
    """

    name: str
    config: Any
    num_codes: int
    use: Use
    held_out: Use | None
    num_tokens: int | None
    geometry: Geometry | None
    gradients: Mapping[str, float]
    latents: Float[Tensor, "n d"]
    codes: Float[Tensor, "n d"]

    def to_json(self) -> dict[str, Any]:
        """Return all figures, without settings, counts and vectors."""
        geometry = self.geometry
        return {
            "name": self.name,
            "num_codes": self.num_codes,
            "num_tokens": self.num_tokens,
            "training": self.use.to_json(),
            "held_out": None if self.held_out is None else self.held_out.to_json(),
            "geometry": None
            if geometry is None
            else {**asdict(geometry), "relative_error": geometry.relative_error},
            "gradients": dict(self.gradients),
        }


@final
@dataclass(frozen=True)
class Measurements:
    """Measurements of a model.

    Attributes:
        title: name of the model.
        unit: of the distortions, "bits" or "nats".
        codebooks: one per quantizer.
        distortion: per dimension, of held-out items if there are any.
        unquantized: the same with latents that are not quantized; None where the decoder cannot read them.
        metrics: lines of the run's metrics.jsonl.
    """

    title: str
    unit: str
    codebooks: tuple[Codebook, ...]
    distortion: float
    unquantized: float | None
    metrics: Sequence[Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain JSON values."""
        return {
            "title": self.title,
            f"distortion_{self.unit}_per_dim": self.distortion,
            f"distortion_{self.unit}_per_dim_unquantized": self.unquantized,
            "codebooks": [codebook.to_json() for codebook in self.codebooks],
        }


def check_quantizers(model: LatentVariableModel) -> dict[str, Quantizer]:
    """Return the quantizers of a model, by the names of their modules.

    Raises:
        InputError: if it has none, or more codes than can be counted.
    """
    quantizers = quantizers_of(model)
    if not quantizers:
        raise InputError(
            f"expected a model with a quantizer, received {model.title}, which has none: use `evaluate`, or "
            "diagnose a model of kind vqvae or hierarchy"
        )
    for quantizer in quantizers.values():
        check_counts(quantizer.num_codes, quantizer.num_codebooks)
    return quantizers


def measure_codebooks(
    model: LatentVariableModel,
    training: Iterable[Batch],
    held_out: Iterable[Batch] | None = None,
    num_items: int | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
) -> Measurements:
    """Measure the codebooks of a model, which is set to evaluation mode.

    Args:
        model: with at least one `Quantizer`.
        training: batches of training items; a sample if there are very many.
        held_out: batches of other items.
        num_items: size of the whole training set; None if it is not known.
        metrics: lines of the run's metrics.jsonl.

    Raises:
        InputError: for a model without a quantizer or with more codes than can be counted, or without items.
    """
    quantizers = check_quantizers(model)
    model.eval()
    with full_precision(model):
        first, samples = _sampled(model, quantizers, training)
        if not first:
            raise InputError("expected batches of training items, received none: pass at least one Batch")
        shown, others = _sampled(model, quantizers, held_out or ())
        gradients = _gradients(model, quantizers, first)
        codebooks = tuple(
            _codebook(
                name if len(quantizers) > 1 else "",
                quantizer,
                samples[name],
                others[name] if shown else None,
                num_items,
                gradients[name],
            )
            for name, quantizer in quantizers.items()
        )
        is_compared = all(each.geometry is not None for each in codebooks)
        return Measurements(
            model.title,
            model.signal.domain.unit,
            codebooks,
            _distortion(model, quantizers, shown or first),
            _distortion(model, quantizers, shown or first, is_bypassed=True) if is_compared else None,
            metrics,
        )


@final
class _Sample:
    """Counts of the codes of a quantizer, and some of its latents.

    Args:
        quantizer: the quantizer.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self._quantizer = quantizer
        self._use = CodebookUse(quantizer.num_codebooks, quantizer.num_codes)
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self._num_kept = 0
        self.num_items = 0
        self.is_compared = False
        """True if latents and codes are compared by their distance, at each position."""

    def update(self, seen: Seen) -> None:
        """Add a batch."""
        codes = seen.quantized.codes.detach()
        if not self.num_items:
            self.is_compared = (
                "commitment" in seen.quantized.terms
                and codes.shape[2:] == seen.latents.shape[2:]
                and not ignores_length(self._quantizer, seen.latents)
            )
        self.num_items += len(codes)
        self._use.update(codes)
        if self._num_kept < MOST_VECTORS:
            indices = codes.transpose(0, 1).flatten(1)
            kept = vectors(seen.latents).cpu(), vectors(seen.quantized.latents).cpu(), indices.cpu()
            self._kept.append(kept)
            self._num_kept += len(kept[0])

    def use(self) -> Use:
        """Return the counts by codebook; called once."""
        self._use.merge(self._quantizer.codebook_ids)
        assert self._use.counts is not None
        return Use(self._use.counts, **self._use.compute())

    def tensors(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"], Int64[Tensor, "g m"]]:
        """Return latents, the codes that replace them, and the indices of these."""
        latents, codes, indices = zip(*self._kept, strict=True)
        return torch.cat(latents), torch.cat(codes), torch.cat(indices, 1)


def _sampled(
    model: LatentVariableModel, quantizers: Mapping[str, Quantizer], batches: Iterable[Batch]
) -> tuple[list[Batch], dict[str, _Sample]]:
    """Quantize all batches; return the first ones, and a sample for each quantizer."""
    samples = {name: _Sample(quantizer) for name, quantizer in quantizers.items()}
    first: list[Batch] = []
    with torch.no_grad(), observed(quantizers) as seen:
        for batch in batches:
            if len(first) < GRADIENT_BATCHES:
                first.append(batch)
            model.loss(batch)
            for name, sample in samples.items():
                sample.update(seen[name])
    return first, samples


def _codebook(
    name: str,
    quantizer: Quantizer,
    sample: _Sample,
    others: _Sample | None,
    num_items: int | None,
    gradients: Mapping[str, float],
) -> Codebook:
    use = sample.use()
    latents, codes, indices = sample.tensors()
    geometry = None
    if sample.is_compared:
        geometry = Geometry(
            latent_length=latents.square().sum(1).mean().sqrt().item(),
            code_length=codes.square().sum(1).mean().sqrt().item(),
            error=_squared_distance(latents, codes),
            variance=_squared_distance(latents, latents.mean(0)),
            lag=max(explained(latents - codes, row, quantizer.num_codes) for row in indices),
            held_out_error=None if others is None else _squared_distance(*others.tensors()[:2]),
        )
    return Codebook(
        name=name,
        config=getattr(quantizer, "config", None),
        num_codes=quantizer.num_codes,
        use=use,
        held_out=None if others is None else others.use(),
        num_tokens=None if num_items is None else round(use.num_tokens * num_items / sample.num_items),
        geometry=geometry,
        gradients=gradients,
        latents=latents,
        codes=codes,
    )


def _squared_distance(one: Tensor, other: Tensor) -> float:
    return (one - other).square().sum(1).mean().item()


def explained(errors: Float[Tensor, "n d"], indices: Int64[Tensor, " n"], num_codes: int) -> float:
    """Compute the share of squared errors that the mean error of each code explains, corrected for chance.

    The correction is that of epsilon squared (Kelley 1935): a code whose errors have the variance s around
    their mean contributes about s by chance.

    Args:
        errors: of each position.
        indices: code of each position.
        num_codes: K.
    """
    counts = torch.bincount(indices, minlength=num_codes)
    means = errors.new_zeros(num_codes, errors.shape[1]).index_add_(0, indices, errors)
    means /= counts.clamp_min(1).unsqueeze(1)
    total, between = errors.square().sum().item(), means[indices].square().sum().item()
    used = int((counts > 0).sum().item())
    if total == 0 or len(indices) <= used:
        return 0.0
    by_chance = used * (total - between) / (len(indices) - used)
    return max(0.0, (between - by_chance) / total)


def _gradients(
    model: LatentVariableModel, quantizers: Mapping[str, Quantizer], batches: Sequence[Batch]
) -> dict[str, dict[str, float]]:
    """Mean length of the gradient of a position's latents at each quantizer, for each part of the loss."""
    lengths: dict[str, dict[str, float]] = {name: {} for name in quantizers}
    for batch in batches:
        with torch.enable_grad(), observed(quantizers) as seen:
            total = model.loss(batch).total
            for name, quantizer in quantizers.items():
                latents, loss = seen[name].latents, seen[name].quantized.loss
                of_loss = _gradient(loss, latents)
                parts = {"distortion": _gradient(total, latents) - of_loss}
                # The loss is linear in its weights.
                for weight in (name for name, value in weights_of(quantizer).items() if value):
                    leaf = latents.detach().requires_grad_()
                    parts[weight] = of_loss - _gradient(without(quantizer, weight)(leaf).loss, leaf)
                for part, gradient in parts.items():
                    # The loss is a mean over items: times their number, it does not depend on it.
                    length = vectors(gradient * len(gradient)).norm(dim=1).mean().item()
                    lengths[name][part] = lengths[name].get(part, 0.0) + length / len(batches)
    return lengths


def _gradient(value: Tensor, latents: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(latents)
    (found,) = torch.autograd.grad(value, latents, retain_graph=True, allow_unused=True)
    return torch.zeros_like(latents) if found is None else found


@torch.no_grad()
def _distortion(
    model: LatentVariableModel,
    quantizers: Mapping[str, Quantizer],
    batches: Sequence[Batch],
    is_bypassed: bool = False,
) -> float:
    """Distortion per dimension, of codes or of the latents in their place."""
    name = f"distortion_{model.signal.domain.unit}_per_dim"
    total = 0.0
    with observed(quantizers, is_bypassed):
        for batch in itertools.islice(batches, GRADIENT_BATCHES):
            total += model.loss(batch).terms[name].item() * len(batch.data)
    return total / sum(len(batch.data) for batch in batches)
