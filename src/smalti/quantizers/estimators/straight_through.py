"""Straight-through estimator (van den Oord et al. 2017, section 3.2)."""

from __future__ import annotations

from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from smalti.quantizers.estimators.base import ESTIMATORS, GradientEstimator, GradientEstimatorConfig
from smalti.quantizers.straight_through import straight_through


@ESTIMATORS.register
class StraightThroughConfig(GradientEstimatorConfig):
    """The paper's estimator, without settings."""

    kind: Literal["straight_through"] = "straight_through"

    def build(self) -> StraightThrough:
        """Build the estimator."""
        return StraightThrough()


@final
class StraightThrough(GradientEstimator):
    """Passes the gradient of the codes to the tokens unchanged."""

    kind = "straight_through"

    def __call__(
        self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"], training: bool
    ) -> Float[Tensor, "g n d"]:
        """Return exactly z_q, with its gradient passed to z_e."""
        return straight_through(z_e, z_q)
