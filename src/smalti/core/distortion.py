"""The distortion of a batch in all models: nats per position in the loss, per observed value in logs."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from smalti.core.conditions import Batch
from smalti.core.models import ForwardPass
from smalti.core.results import Loss
from smalti.core.signals import Domain
from smalti.core.units import per_dim, sum_over_items


def mean_distortion(log_prob: Float[Tensor, "b c *size"], batch: Batch) -> Float[Tensor, ""]:
    """Mean of -ln p(x | z) over items, in nats per position of the batch, for the loss.

    Padding and missing values cost nothing but are counted in the divisor, so that every observed value has
    the same weight in the loss, in whatever item and batch it is.
    """
    return -sum_over_items(log_prob, batch.lengths, batch.mask).mean() / log_prob[0].numel()


def per_observed_dim(per_position: Tensor, batch: Batch, domain: Domain) -> Tensor:
    """Convert a mean in nats per position to the domain's unit per observed dimension, for logs.

    Args:
        per_position: nats of the mean item over the positions of an item, such as `mean_distortion`.
        batch: the batch that it was computed on.
        domain: of the signal.
    """
    # At least one value, so that a batch without any observed value logs a finite number.
    observed = batch.num_values().sum().clamp(min=1)
    return per_dim(per_position.detach() * (batch.data.numel() / observed), 1, domain)


def loss_of(run: ForwardPass, batch: Batch, domain: Domain) -> Loss:
    """Add the distortion of a pass, in nats per position, to its loss of latents; log both."""
    distortion = mean_distortion(run.likelihood.log_prob(batch.data), batch)
    logged = per_observed_dim(distortion, batch, domain)
    return Loss(distortion + run.latent_loss, {f"distortion_{domain.unit}_per_dim": logged, **run.terms})
