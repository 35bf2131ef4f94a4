"""Base of decoders of sequences whose layers depend on a bounded part of their input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.conditioners import Conditioner
from smalti.core.conditions import Conditions
from smalti.core.locality import Extent, ReceptiveField
from smalti.decoders.conditioned import ConditionedDecoder
from smalti.nn.receptive import receptive_field, within


class SequenceDecoder(ConditionedDecoder):
    """A first layer, conditions, and further layers, all along one axis; decodes sequences in windows too.

    Args:
        first: the layer that computes the conditioned activations from latents.
        channels: of these activations.
        layers: the others, to the parameters of the likelihood.
        stride: positions of the signal for each latent.
        conditions, label_dropout, conditioners: see `ConditionedDecoder`.
    """

    def __init__(
        self,
        first: nn.Module,
        channels: int,
        layers: Iterable[nn.Module],
        stride: int,
        conditions: Mapping[str, int] | None = None,
        label_dropout: float = 0.1,
        conditioners: Mapping[str, Conditioner] | None = None,
    ) -> None:
        super().__init__(first, channels, conditions, label_dropout, conditioners)
        self.layers = nn.Sequential(*layers)
        self.stride = stride

    def upsampled(self, x: Float[Tensor, "b c *grid"]) -> Float[Tensor, "b p *size"]:
        """Apply the layers after the first one."""
        return self.layers(x)

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Of all layers; None with conditioners."""
        if len(self.conditioners):
            return None
        return receptive_field(nn.Sequential(self.first, *self.layers), self.stride, 1)

    def within(
        self, latents: Float[Tensor, "b d *grid"], extent: Extent, conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *size"]:
        """Parameters of the likelihood for windows of longer signals."""
        x = within([self.first], latents, extent)
        return within(self.layers, self.conditioned(x, conditions), extent)
