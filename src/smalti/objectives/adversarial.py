"""The adversarial term: a discriminator learns to tell reconstructions from signals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.results import Loss
from smalti.core.signals import SignalSpec
from smalti.nn.collectives import mean_over_ranks
from smalti.objectives.base import TERMS, Term, TermConfig
from smalti.objectives.discriminators.base import AnyDiscriminator, Discriminator, Verdict
from smalti.objectives.discriminators.patch import PatchDiscriminatorConfig

Kind = Literal["hinge", "non-saturating"]
LOGIT_DECAY = 0.99
"""Decay of the averages of logits that LeCam regularisation compares with."""


def hinge(logits: Tensor, is_real: bool) -> Tensor:
    """Discriminator's hinge loss of each logit (Lim & Ye 2017, arXiv 1705.02894)."""
    return F.relu(1 - logits) if is_real else F.relu(1 + logits)


def cross_entropy(logits: Tensor, is_real: bool) -> Tensor:
    """Discriminator's cross-entropy of each logit (Goodfellow et al. 2014)."""
    return F.softplus(-logits) if is_real else F.softplus(logits)


DISCRIMINATOR_LOSSES: dict[Kind, Callable[[Tensor, bool], Tensor]] = {
    "hinge": hinge,
    "non-saturating": cross_entropy,
}
GENERATOR_LOSSES: dict[Kind, Callable[[Tensor], Tensor]] = {
    "hinge": torch.neg,
    "non-saturating": lambda logits: F.softplus(-logits),
}


@final
class Adversarial(Term):
    """Loss of a reconstruction that a discriminator recognises, and the loss of that discriminator.

    `forward` is the model's loss. `discriminator_loss` is minimised by the discriminator, in a phase of its
    own and on the same batch.

    Args:
        discriminator: judges signals and reconstructions.
        weight: factor of the term; with `balance`, the norm of its gradient relative to that of the
            likelihood and all terms without a discriminator, both at the decoder's output.
        start: first training step of the term, in the model's loss.
        head_start: steps by which the discriminator's phase begins before the term: what an untrained
            discriminator says of a reconstruction is noise.
        loss: "hinge", or "non-saturating" cross-entropy.
        balance: scale the term by the norms of gradients (as VQGAN's adaptive weight does, Esser et al. 2021,
            equation 7, at the last layer), so that its weight does not depend on the scale of other terms.
        feature_matching: weight, in the model's loss, of the mean absolute difference between features of
            signals and reconstructions, relative to the mean magnitude of the signals' (Kumar et al. 2019).
        r1: weight of half the squared gradient norm of logits at signals (Mescheder et al. 2018).
        lecam: weight of LeCam regularisation (Tseng et al. 2021), for few data: the squares by which logits
            of signals exceed the average of reconstructions, and those of reconstructions fall below that of
            signals, as in the authors' code.
        learning_rate_scale: of the discriminator, relative to the model's.
        every: the discriminator learns every so many steps.

    Raises:
        InputError: for a weight that is negative, or another kind of loss.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        weight: float = 1.0,
        start: int = 0,
        *,
        loss: Any = "hinge",
        balance: bool = True,
        feature_matching: float = 0.0,
        r1: float = 0.0,
        lecam: float = 0.0,
        learning_rate_scale: float = 1.0,
        every: int = 1,
        head_start: int = 0,
    ) -> None:
        super().__init__(weight, start)
        if loss not in DISCRIMINATOR_LOSSES or min(feature_matching, r1, lecam, head_start) < 0:
            raise InputError(
                f"expected a loss out of {', '.join(DISCRIMINATOR_LOSSES)}, and weights and a head_start of "
                f"at least 0, received {loss!r}, and feature_matching {feature_matching}, r1 {r1}, lecam "
                f"{lecam}, head_start {head_start}: correct them"
            )
        self.discriminator = discriminator
        self.kind: Kind = loss
        self.balance, self.feature_matching, self.r1, self.lecam = balance, feature_matching, r1, lecam
        self.learning_rate_scale, self.every = learning_rate_scale, every
        self.discriminator_start = max(0, start - head_start)
        """First training step of the discriminator."""
        self.register_buffer("average_logits", torch.zeros(2))
        """Moving averages of the logits of signals and of reconstructions."""

    average_logits: Tensor

    def forward(
        self, reconstruction: Float[Tensor, "b c *size"], signal: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, ""]:
        """The model's loss, without balance."""
        of_generated = self.discriminator(reconstruction)
        generator = GENERATOR_LOSSES[self.kind]
        loss = _mean([generator(each.logits.float()) for each in of_generated])
        if self.feature_matching:
            with torch.no_grad():
                of_signal = self.discriminator(signal)
            loss = loss + self.feature_matching * _feature_distance(of_generated, of_signal)
        return loss

    def discriminator_loss(
        self, reconstruction: Float[Tensor, "b c *size"], signal: Float[Tensor, "b c *size"]
    ) -> Loss:
        """The discriminator's loss; logs the mean logits of signals and of reconstructions.

        Args:
            reconstruction: detached from the model.
            signal: the originals.
        """
        if self.r1:
            signal = signal.detach().requires_grad_()
        real = [each.logits.float() for each in self.discriminator(signal)]
        fake = [each.logits.float() for each in self.discriminator(reconstruction.detach())]
        judge = DISCRIMINATOR_LOSSES[self.kind]
        total = _mean([judge(logits, True) for logits in real]) + _mean([judge(each, False) for each in fake])
        means = torch.stack([_mean(real), _mean(fake)]).detach()
        terms = {"classification": total.detach(), "real_logits": means[0], "fake_logits": means[1]}
        if self.r1:
            penalty = _gradient_norms(real, signal).mean()
            total, terms["r1"] = total + self.r1 / 2 * penalty, penalty.detach()
        if self.lecam:
            distance = self._distance_from_averages(real, fake)
            total, terms["lecam"] = total + self.lecam * distance, distance.detach()
            if self.training:
                self.average_logits.lerp_(mean_over_ranks(means), 1 - LOGIT_DECAY)
        return Loss(total, terms)

    def _distance_from_averages(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
        """LeCam's distance; averages are copied, since they change before the backward pass."""
        of_real, of_fake = self.average_logits.clone()
        return _mean([F.relu(each - of_fake).square() for each in real]) + _mean(
            [F.relu(of_real - each).square() for each in fake]
        )


def _mean(values: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean over networks of the means of each."""
    return torch.stack([value.mean() for value in values]).mean()


def _feature_distance(generated: Sequence[Verdict], real: Sequence[Verdict]) -> Float[Tensor, ""]:
    """Mean over layers of mean |f(x̂) - f(x)| / mean |f(x)|."""
    distances = [
        (of_generated - of_real).abs().mean() / mean_over_ranks(of_real.abs().mean()).clamp_min(1e-6)
        for ours, theirs in zip(generated, real, strict=True)
        for of_generated, of_real in zip(ours.features, theirs.features, strict=True)
    ]
    return torch.stack(distances).mean()


def _gradient_norms(logits: Sequence[Tensor], signal: Tensor) -> Float[Tensor, " b"]:
    """Squared norm, for each item, of the gradient of the sum over networks of the item's mean logit."""
    summed = torch.stack([each.mean() * len(signal) for each in logits]).sum()
    (gradient,) = torch.autograd.grad(summed, signal, create_graph=True)
    return gradient.flatten(1).square().sum(1)


@TERMS.register
class AdversarialConfig(TermConfig):
    """Settings of an `Adversarial` term and its discriminator."""

    kind: Literal["adversarial"] = "adversarial"
    discriminator: AnyDiscriminator = PatchDiscriminatorConfig()
    loss: Kind = "hinge"
    balance: bool = True
    feature_matching: float = Field(default=0.0, ge=0)
    r1: float = Field(default=0.0, ge=0)
    lecam: float = Field(default=0.0, ge=0)
    learning_rate_scale: float = Field(default=1.0, gt=0)
    every: int = Field(default=1, ge=1)
    head_start: int = Field(default=0, ge=0)

    def build(self, signal: SignalSpec) -> Adversarial:
        """Build the term with an untrained discriminator."""
        return Adversarial(
            self.discriminator.build(signal),
            self.weight,
            self.start,
            loss=self.loss,
            balance=self.balance,
            feature_matching=self.feature_matching,
            r1=self.r1,
            lecam=self.lecam,
            learning_rate_scale=self.learning_rate_scale,
            every=self.every,
            head_start=self.head_start,
        )
