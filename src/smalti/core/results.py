"""Result types: losses, quantized latents, bounds and measurements; log-probabilities and rates in nats."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A loss and its terms.

    Attributes:
        total: scalar to minimise.
        terms: detached scalars by name, for logs and for messages about values that are not finite.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Quantized:
    """The output of a quantizer.

    Attributes:
        latents: `(B, D, *grid)`, the selected code vectors, with straight-through gradients to the input.
        codes: int64 `(B, G, *grid)`. With `channel_last`, the second axis of latents and codes is the last.
        loss: scalar, the quantizer's loss terms (codebook, commitment).
        terms: the loss terms by name, detached.
    """

    latents: Float[Tensor, "b ..."]
    codes: Int64[Tensor, "b ..."]
    loss: Float[Tensor, ""]
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class LatentPrior:
    """Rates under the model's own prior, for a model whose latents are not codes.

    Attributes:
        name: name of the prior in reports.
        rates: `(S, B)`, ln q(z_s|x) - ln p(z_s) of each draw, nats.
        kl: `(B,)`, their expectation KL(q(z|x) | p(z)) in closed form, nats.
    """

    name: str
    rates: Float[Tensor, "s b"]
    kl: Float[Tensor, " b"]


@dataclass(frozen=True)
class BoundTerms:
    """The terms of bounds on ln p(x), for S draws z_s from the posterior q(z|x) of each item.

    A deterministic encoder has one draw, of probability 1.

    Attributes:
        distortions: `(S, B)`, -ln p(x|z_s), nats, without padding.
        log_posteriors: `(S, B)`, ln q(z_s|x) of codes, nats; 0 for a deterministic encoder.
        draws: int64 `(S, B, G, *grid)`, the codes z_s; None for a model without codes.
        codes: int64 `(B, G, *grid)`, the most probable codes; None for a model without codes.
        reconstruction: `(B, C, *size)`, the mean of p(x|z) at the most probable latents, in the model's
            range; None if it is not known in closed form.
        latent_prior: rates under the model's own prior, for a model without codes.
    """

    distortions: Float[Tensor, "s b"]
    log_posteriors: Float[Tensor, "s b"]
    draws: Int64[Tensor, "s b g *grid"] | None
    codes: Int64[Tensor, "b g *grid"] | None
    reconstruction: Tensor | None
    latent_prior: LatentPrior | None = None


@dataclass(frozen=True)
class Bound:
    """An upper bound on -ln p(x), or -ln p(x | given), for each item, as rate plus distortion, nats.

    Attributes:
        rate: ln q(z|x) - ln p(z), or -ln p(z) for a deterministic encoder, plus the cost of labels.
        distortion: -ln p(x|z).
        labels: part of the rate that encodes the labels which the decoder is conditioned on.
        given: names of conditions that the decoder is given and the rate does not include: with any, the
            bound is on -ln p(x | given).
    """

    rate: Float[Tensor, " b"]
    distortion: Float[Tensor, " b"]
    labels: float | Float[Tensor, " b"] = 0.0
    given: tuple[str, ...] = ()

    @property
    def log_prob(self) -> Float[Tensor, " b"]:
        """Lower bound on ln p(x), nats."""
        return -(self.rate + self.distortion)


@dataclass(frozen=True)
class Measured:
    """Measurements of one batch.

    Attributes:
        bounds: bounds on the log-probability of the items, by the name of the prior (and of the bound, for
            models with several).
        reconstruction: `(B, C, *size)`, in the model's range; None if it is not known in closed form.
        codes: int64 `(B, G, *grid)`; None for a model without codes.
    """

    bounds: dict[str, Bound]
    reconstruction: Tensor | None
    codes: Tensor | None
