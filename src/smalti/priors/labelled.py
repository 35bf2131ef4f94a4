"""The joint prior over codes and class that a class-conditional prior defines."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.coders import SymbolCoder
from smalti.core.conditions import Conditions
from smalti.core.priors import DensityPrior
from smalti.priors.uniform import NO_CONDITIONS


@final
class LabelledPrior(DensityPrior):
    """Class-conditional prior whose rate includes the class: p(z) >= p(z | y) / number of classes.

    Its rate is therefore a bound for a receiver who does not know the class. Items without a label (-1) are
    scored without a class and pay no cost for it.

    Args:
        prior: a prior that was trained with classes.
    """

    def __init__(self, prior: DensityPrior) -> None:
        super().__init__()
        self.prior, self.name = prior, f"{prior.name}+class"

    def log_prob(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = NO_CONDITIONS
    ) -> Float[Tensor, " b"]:
        """`log_joint`, which is a lower bound on ln p(codes) for any class."""
        return self.log_joint(codes, conditions)

    def log_joint(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = NO_CONDITIONS
    ) -> Float[Tensor, " b"]:
        """ln p(codes, class) = ln p(codes | class) - ln(number of classes), nats."""
        # The bound includes only the cost of the class, so the prior gets no other condition.
        log_prob = self.prior.log_prob(codes, conditions.only("label"))
        labels = conditions.tensor("label")
        if labels is None:
            return log_prob
        return log_prob - math.log(self.prior.num_labels) * (labels >= 0)

    def code(
        self, codes: Int64[Tensor, "b g *grid"], coder: SymbolCoder, conditions: Conditions = NO_CONDITIONS
    ) -> None:
        """Code the codes given the labels, which both sides must know."""
        self.prior.code(codes, coder, conditions.only("label"))

    def sample(
        self,
        num: int,
        conditions: Conditions = NO_CONDITIONS,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Sample from the learned prior."""
        return self.prior.sample(num, conditions, temperature, top_k, top_p, generator)
