"""NSVQ: noise substitution in vector quantization (Vali & Bäckström 2022)."""

from __future__ import annotations

from typing import Literal, final

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from smalti.quantizers.estimators.base import (
    ESTIMATORS,
    GradientEstimator,
    GradientEstimatorConfig,
    normal_noise,
)
from smalti.quantizers.straight_through import straight_through


@ESTIMATORS.register
class NSVQConfig(GradientEstimatorConfig):
    """Noise substitution, without settings."""

    kind: Literal["nsvq"] = "nsvq"

    def build(self) -> NSVQ:
        """Build the estimator."""
        return NSVQ()


@final
class NSVQ(GradientEstimator):
    """Replaces the quantization error by noise of the same length in a random direction.

        z_q = z + |z - e| n / |n|,  n ~ N(0, I)

    Only the length has a gradient, for tokens and codes alike: the decoder's gradient trains the codes, and
    codebook and commitment loss are off. In evaluation mode the latents are exactly the codes, with
    straight-through gradients.
    """

    kind = "nsvq"
    trains_codes = True

    def __call__(
        self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"], training: bool
    ) -> Float[Tensor, "g n d"]:
        """Return tokens with noise in training, which is drawn for the batch of all ranks."""
        if not training:
            return straight_through(z_e, z_q)
        length = (z_e - z_q).norm(dim=-1, keepdim=True)
        return z_e + length * normalize(normal_noise(z_e), dim=-1)
