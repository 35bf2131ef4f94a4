"""Perceptual distance: squared differences of normalised features of a pretrained network."""

from __future__ import annotations

from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.signals import SignalSpec
from smalti.objectives.base import TERMS, Term, TermConfig, check_pictures, colour
from smalti.objectives.features import NAME, pretrained_features


@final
class Perceptual(Term):
    """Squared distance of features, each position's normalised over channels (Zhang et al. 2018, equation 1).

    LPIPS with equal weights for all channels: the mean over positions of |f̂ / |f̂| - f / |f||^2, averaged over
    the resolutions of the network. It is called after its network, since it is not comparable to LPIPS.

    Args:
        network: maps RGB pictures `(N, 3, H, W)` in [-1, 1] to a list of features `(N, D, h, w)`. It is not
            trained, and not saved with the model.
        weight: factor of the term in the objective.
        start: first training step with the term, counted from 0.
    """

    def __init__(self, network: nn.Module, weight: float = 1.0, start: int = 0) -> None:
        super().__init__(weight, start)
        # In a tuple, so that it is no submodule: neither trained, nor saved, nor set to training mode.
        self._network = (network.eval().requires_grad_(False),)

    def forward(
        self, reconstruction: Float[Tensor, "b c *size"], signal: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, ""]:
        """Mean distance of pictures or frames; those with one channel count as grey."""
        network = self._network[0].to(signal.device)
        # Small differences of features would be lost in the rounding of autocast.
        with torch.autocast(signal.device.type, enabled=False):
            with torch.no_grad():
                expected = [_normalized(each) for each in network(colour(signal.float()))]
            received = [_normalized(each) for each in network(colour(reconstruction.float()))]
        distances = [
            (ours - theirs).square().sum(1).mean() for ours, theirs in zip(received, expected, strict=True)
        ]
        return torch.stack(distances).mean()


def _normalized(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=1, eps=1e-6)


@TERMS.register
class PerceptualConfig(TermConfig):
    """Settings of a `Perceptual` term.

    Attributes:
        network: name of the network; its weights come with an installed package.
    """

    kind: Literal["perceptual"] = "perceptual"
    network: Literal["efficientnet-lite0"] = NAME

    def build(self, signal: SignalSpec) -> Perceptual:
        """Build the term.

        Raises:
            InputError: for other signals than pictures or clips, or if the network is not installed.
        """
        check_pictures(signal, "the term perceptual")
        return Perceptual(pretrained_features(), self.weight, self.start)
