"""Interface of gradient estimators, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.registry import Registry
from smalti.nn.collectives import randn_over_ranks


class GradientEstimator(ABC):
    """Function from tokens and their codes to the latents for the decoder, with the gradient that it defines.

    In evaluation mode the latents are exactly the codes.
    """

    kind: str = ""
    """Name in tables: the `kind` of its config."""
    trains_codes: bool = False
    """True if the gradient of the latents trains the codes too; codebook and commitment loss are then off."""

    @abstractmethod
    def __call__(
        self, z_e: Float[Tensor, "g n d"], z_q: Float[Tensor, "g n d"], training: bool
    ) -> Float[Tensor, "g n d"]:
        """Compute the latents.

        Args:
            z_e: tokens.
            z_q: code of each token.
            training: False in evaluation mode.
        """


class GradientEstimatorConfig(Configuration):
    """Settings of a gradient estimator."""

    @abstractmethod
    def build(self) -> GradientEstimator:
        """Build the estimator."""


ESTIMATORS = Registry("gradient estimator", GradientEstimatorConfig, "smalti.quantizers.estimators")

AnyEstimator = Annotated[GradientEstimatorConfig, ESTIMATORS]


def estimator_config(gradient: str | GradientEstimatorConfig) -> GradientEstimatorConfig:
    """Estimator config from a kind, such as "rotation", or a config, which is returned unchanged.

    Raises:
        InputError: for an unknown kind.
    """
    return ESTIMATORS.get(gradient)() if isinstance(gradient, str) else gradient


def check_trains(estimator: GradientEstimator, codebook: nn.Module, kind: str) -> None:
    """Check that a codebook has parameters, if the estimator is to train them.

    Raises:
        InputError: for codes without a gradient.
    """
    if estimator.trains_codes and not any(each.requires_grad for each in codebook.parameters()):
        raise InputError(
            f"expected a codebook with a gradient for the estimator {estimator.kind}, received the codebook "
            f"{kind}: set codebook.kind=gradient, or gradient.kind=rotation"
        )


def title_suffix(estimator: GradientEstimator) -> str:
    """End of a quantizer's display name; empty for the straight-through estimator."""
    return "" if estimator.kind == "straight_through" else f", {estimator.kind} gradient"


def normal_noise(tokens: Float[Tensor, "g n d"]) -> Float[Tensor, "g n d"]:
    """Draw standard normal numbers for the tokens of all ranks; see `rand_over_ranks`."""
    num_codebooks, num, dim = tokens.shape
    return randn_over_ranks((num, num_codebooks, dim), tokens.device).to(tokens.dtype).transpose(0, 1)
