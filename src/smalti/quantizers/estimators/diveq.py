"""DiVeQ: differentiable vector quantization by the reparametrization trick."""

from __future__ import annotations

from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
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
class DiVeQConfig(GradientEstimatorConfig):
    """Settings of `DiVeQ`.

    Attributes:
        sigma: standard deviation of the noise on the direction from token to code.
    """

    kind: Literal["diveq"] = "diveq"
    sigma: float = Field(default=1e-3, ge=0)

    def build(self) -> DiVeQ:
        """Build the estimator."""
        return DiVeQ(self.sigma)


@final
class DiVeQ(GradientEstimator):
    """Moves each token by its distance to the code, in the code's direction with a little noise.

        z_q = z + |e - z| sg[v / |v|],  v = e - z + sigma n,  n ~ N(0, I)

    Only the distance has a gradient, for tokens and codes alike: the decoder's gradient trains the codes, and
    codebook and commitment loss are off. The latents differ from the codes by about sigma. In evaluation mode
    they are exactly the codes, with straight-through gradients.

    The published training also replaces codes that are used by less than 1 % every 100 steps, which is not
    done here.

    Args:
        sigma: standard deviation of the noise.
    """

    kind = "diveq"
    trains_codes = True

    def __init__(self, sigma: float = 1e-3) -> None:
        self.sigma = sigma

    def __call__(
        self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"], training: bool
    ) -> Float[Tensor, "g n d"]:
        """Return codes with a little noise in training; the noise is drawn for the batch of all ranks."""
        if not training:
            return straight_through(z_e, z_q)
        error = z_q - z_e
        direction = normalize(error.detach() + self.sigma * normal_noise(error), dim=-1)
        return z_e + error.norm(dim=-1, keepdim=True) * direction
