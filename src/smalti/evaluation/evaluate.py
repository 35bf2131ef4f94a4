"""Evaluation of a model and its priors in one pass over a split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smalti.core.arguments import check_count
from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.models import Autoencoder, LatentVariableModel
from smalti.core.precision import full_precision
from smalti.core.priors import DensityPrior, Prior
from smalti.evaluation.bounds import Density, PriorDensity, measure
from smalti.evaluation.code_use import CodeUse, DecodesWithoutCodes
from smalti.evaluation.codebook import CodebookUse
from smalti.evaluation.reconstruction import Reconstruction


@dataclass(frozen=True)
class Evaluation:
    """Results of `evaluate`.

    Attributes:
        num: number of items.
        unit: of the scores: "bits" for exact levels, "nats" for a continuous domain.
        density: for each bound its bits_per_dim (or nats_per_dim), rate, distortion, stderr, nats_per_code.
        reconstruction: psnr, psnr_pooled, ssim, mse, mse_over_variance.
        codebook: usage, perplexity, and for a decoder that also learned to decode without codes
            distortion_true, distortion_shuffled, distortion_none; empty for a model without codes.
        counts: number of occurrences of each code, int64 `(G, K)`; None for a model without codes, or with
            too many for a table.
        protocol: definition of each figure.
        without_density: names of the priors that only draw samples, so that no bound has them.
    """

    num: int
    unit: str
    density: dict[str, PriorDensity]
    reconstruction: dict[str, float | None]
    codebook: dict[str, float]
    counts: Tensor | None
    protocol: dict[str, str]
    without_density: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All fields except the counts, as plain JSON."""
        return {
            "num": self.num,
            f"{self.unit}_per_dim": self.density,
            "reconstruction": self.reconstruction,
            "codebook": self.codebook,
            "protocol": self.protocol,
            **({"without_density": list(self.without_density)} if self.without_density else {}),
        }


@torch.no_grad()
def evaluate(
    model: LatentVariableModel,
    priors: Sequence[Prior],
    batches: Iterable[Batch],
    draws: int = 50,
    seed: int = 0,
) -> Evaluation:
    """Measure a model with each prior on a split; this sets the models to evaluation mode.

    Args:
        model: the model.
        priors: over its codes, if it has any. Priors without a density are omitted from the bounds;
            `without_density` and `protocol` name them.
        batches: the split, each item once.
        draws: number of posterior draws per item, for models with a stochastic posterior.
        seed: of the draws.

    Raises:
        InputError: for an argument of another type, or less than one draw.
    """
    draws = check_count("draws", draws)
    _check_types(model, priors, batches)
    model.eval()
    densities = [prior for prior in priors if isinstance(prior, DensityPrior)]
    without_density = tuple(prior.name for prior in priors if not isinstance(prior, DensityPrior))
    for prior in densities:
        prior.eval()
    density, reconstruction = Density(model.signal), Reconstruction(model.signal)
    generator = torch.Generator().manual_seed(seed)
    use: CodebookUse | None = None
    code_use = CodeUse(model) if isinstance(model, DecodesWithoutCodes) else None
    num, is_ragged = 0, False
    with full_precision(model):
        for batch in batches:
            if not isinstance(batch, Batch):
                raise InputError(
                    f"expected batches of the class Batch, received a {type(batch).__name__}: write "
                    "Batch(data)"
                )
            measured = measure(model, batch, densities, draws, generator)
            is_ragged = is_ragged or batch.lengths is not None or batch.data.shape[2:] != model.signal.size
            density.update(measured, dims=batch.num_values())
            if measured.reconstruction is not None:
                reconstruction.update(batch.data, measured.reconstruction, batch.lengths, batch.mask)
            if isinstance(model, Autoencoder) and measured.codes is not None:
                use = use or CodebookUse(model.num_codebooks, model.num_codes)
                use.update(measured.codes)
                if code_use is not None:
                    code_use.update(batch, measured.codes)
            num += len(batch.data)
    if use is not None and isinstance(model, Autoencoder):
        use.merge(model.codebook_ids)
    reconstructed = reconstruction.compute()
    reliance = code_use.compute() if code_use else {}
    domain = model.signal.domain
    log = "ln" if model.signal.is_continuous else "log2"
    scored = "a density of the standardised data" if model.signal.is_continuous else "exact levels"
    rows = density.compute()
    given = {f"p(x | {', '.join(row['given'])})" for row in rows.values() if "given" in row}
    protocol = {
        f"{domain.unit}_per_dim": f"upper bound on -{log} {' or '.join(sorted(given)) or 'p(x)'} / dims: "
        f"rate {log} q(z|x) / p(z) + distortion -{log} p(x|z), {scored}; at the item's own codes where the "
        f"encoder is deterministic, else the average over {draws} draws of the posterior; 'N draws': the "
        "importance-weighted bound; stderr over items",
        "dims": f"{model.signal.dims} = channels x {'x'.join(str(n) for n in model.signal.size)}"
        + (
            f"; of items of other lengths as many as they have; all {domain.unit} over all dims"
            if is_ragged
            else ""
        ),
        **(
            {
                "given": "the decoder is given conditions whose cost no rate includes: rows marked 'prior | "
                "names' bound p(x | names), not p(x)"
            }
            if given
            else {}
        ),
        **(reconstruction.protocol() if reconstructed else {}),
        **(CodebookUse.protocol() if use else {}),
        **(CodeUse.protocol() if reliance else {}),
        **{
            f"prior {name}": "has no density, so neither a rate nor a total is reported for it"
            for name in without_density
        },
        **(
            {
                "labels": f"the decoder is conditioned on one of {model.num_label_classes} labels if known, "
                "and the rate includes its cost"
            }
            if model.num_label_classes
            else {}
        ),
    }
    return Evaluation(
        num,
        domain.unit,
        rows,
        reconstructed,
        (use.compute() if use else {}) | reliance,
        use.counts if use else None,
        protocol,
        without_density,
    )


def _check_types(model: object, priors: object, batches: object) -> None:
    """Check the types of the arguments of `evaluate`, which checks the batches one by one."""
    if not isinstance(priors, Sequence) or isinstance(priors, str):
        raise InputError(f"expected a list of priors, received a {type(priors).__name__}: write [prior]")
    for part, kind in ((model, LatentVariableModel), *((prior, Prior) for prior in priors)):
        if not isinstance(part, kind):
            raise InputError(
                f"expected a {kind.__name__}, received a {type(part).__name__}: call "
                "evaluate(model, [prior, ...], batches)"
            )
    if isinstance(batches, Batch | Tensor) or not isinstance(batches, Iterable):
        raise InputError(
            f"expected several batches, received one {type(batches).__name__}: pass a list of Batch"
        )
