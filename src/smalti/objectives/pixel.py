"""Errors of single values: L1 and L2."""

from __future__ import annotations

from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from smalti.core.signals import SignalSpec
from smalti.objectives.base import TERMS, Term, TermConfig


@final
class L1(Term):
    """Mean absolute error, in the model's range (pictures and sounds have width 2)."""

    def forward(
        self, reconstruction: Float[Tensor, "b c *size"], signal: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, ""]:
        """Mean of |x̂ - x|."""
        return (reconstruction - signal).abs().mean()


@final
class L2(Term):
    """Mean squared error, in the model's range."""

    def forward(
        self, reconstruction: Float[Tensor, "b c *size"], signal: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, ""]:
        """Mean of (x̂ - x)^2."""
        return (reconstruction - signal).square().mean()


@TERMS.register
class L1Config(TermConfig):
    """Settings of an `L1` term."""

    kind: Literal["l1"] = "l1"

    def build(self, signal: SignalSpec) -> L1:
        """Build the term; it compares any signals."""
        return L1(self.weight, self.start)


@TERMS.register
class L2Config(TermConfig):
    """Settings of an `L2` term."""

    kind: Literal["l2"] = "l2"

    def build(self, signal: SignalSpec) -> L2:
        """Build the term; it compares any signals."""
        return L2(self.weight, self.start)
