"""Frozen results: losses, quantized latents, bounds, measurements; log-probabilities and rates in nats."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, and the named detached scalars that it is made of (for logs and for blame)."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Quantized:
    """The output of a quantizer.

    Attributes:
        latents: `(B, D, *grid)`, the chosen code vectors; gradients pass straight through to the input.
        codes: int64 `(B, G, *grid)`. Of a quantizer with `channel_last`, both have the second axis last.
        loss: the quantizer's own terms (codebook, commitment), a scalar.
        terms: those terms by name, detached.
    """

    latents: Float[Tensor, "b ..."]
    codes: Int64[Tensor, "b ..."]
    loss: Float[Tensor, ""]
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class LatentPrior:
    """Rates under a prior that belongs to the model itself, over latents that are not codes.

    Attributes:
        name: under which its bounds are reported.
        rates: `(S, B)`, ln q(z_s|x) - ln p(z_s) of each draw, nats.
        kl: `(B,)`, their expectation KL(q(z|x) | p(z)) in closed form, nats.
    """

    name: str
    rates: Float[Tensor, "s b"]
    kl: Float[Tensor, " b"]


@dataclass(frozen=True)
class BoundTerms:
    """What a bound on ln p(x) is made of: S draws z_s of the posterior q(z|x) of each item, and their terms.

    A deterministic encoder has one draw, of probability 1.

    Attributes:
        distortions: `(S, B)`, -ln p(x|z_s), nats, without padding.
        log_posteriors: `(S, B)`, ln q(z_s|x) of codes, nats; 0 for a deterministic encoder.
        draws: int64 `(S, B, G, *grid)`, the codes z_s; None for a model without codes.
        codes: int64 `(B, G, *grid)`, the most probable codes; None for a model without codes.
        reconstruction: `(B, C, *size)`, the mean of p(x|z) at the most probable latents, in the signal's
            model range; None where it is not known in closed form.
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
    """An upper bound on -ln p(x) for each item, in two parts, nats.

    Attributes:
        rate: ln q(z|x) - ln p(z), or -ln p(z) for a deterministic encoder, plus the cost of labels.
        distortion: -ln p(x|z).
        labels: the part of the rate that pays for labels the decoder is conditioned on.
    """

    rate: Float[Tensor, " b"]
    distortion: Float[Tensor, " b"]
    labels: float | Float[Tensor, " b"] = 0.0

    @property
    def log_prob(self) -> Float[Tensor, " b"]:
        """The lower bound on ln p(x), nats."""
        return -(self.rate + self.distortion)


@dataclass(frozen=True)
class Measured:
    """Measurements of one batch.

    Attributes:
        bounds: on the items' log-probability, by the name of the prior (and of the bound, where a model has
            several).
        reconstruction: `(B, C, *size)`, in the signal's model range; None where it would have to be drawn.
        codes: int64 `(B, G, *grid)`, or None for a model without codes.
    """

    bounds: dict[str, Bound]
    reconstruction: Tensor | None
    codes: Tensor | None
