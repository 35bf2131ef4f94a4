"""Frozen results: losses, quantized latents, bounds, measurements; log-probabilities and rates in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, and the named detached scalars that it is made of (for logs and for blame)."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of latents.

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
class Bound:
    """An upper bound on -ln p(x) for each item, in two parts, nats.

    Attributes:
        rate: ln q(z|x) - ln p(z); of a deterministic encoder, -ln p(z); and what is paid for labels.
        distortion: -ln p(x|z).
        labels: what of the rate is paid for labels that a decoder is told.
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
    """What one batch gives to evaluation.

    Attributes:
        bounds: on the items' log-probability, by the name of the prior (and of the bound, where a model has
            several).
        reconstruction: `(B, C, *size)`, in the signal's model range; None where it would have to be drawn.
        codes: int64 `(B, G, *grid)`, or None for a model without codes.
    """

    bounds: dict[str, Bound]
    reconstruction: Tensor | None
    codes: Tensor | None


def summed(log_prob: Float[Tensor, "b c *size"], lengths: Int64[Tensor, " b"] | None) -> Float[Tensor, " b"]:
    """The sum over each item, without its padding: what lies beyond its length on the first axis."""
    if lengths is not None:
        inside = torch.arange(log_prob.shape[2], device=log_prob.device) < lengths.unsqueeze(1)
        log_prob = log_prob * inside.view(len(log_prob), 1, -1, *(1,) * (log_prob.ndim - 3))
    return log_prob.flatten(1).sum(1)
