"""Discriminators: networks that tell reconstructions from signals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.config import Configuration
from smalti.core.registry import Registry
from smalti.core.signals import SignalSpec


@dataclass(frozen=True)
class Verdict:
    """Output of one network of a discriminator.

    Attributes:
        logits: `(B, ...)`, high for signals and low for reconstructions, at each of its positions.
        features: outputs of its hidden layers, for feature matching.
    """

    logits: Float[Tensor, "b ..."]
    features: tuple[Tensor, ...]


class Discriminator(nn.Module, ABC):
    """One or more networks that tell reconstructions from signals."""

    config: Any = None
    """The `DiscriminatorConfig` that builds an equal discriminator, or None."""

    @abstractmethod
    def forward(self, signal: Float[Tensor, "b c *size"]) -> Sequence[Verdict]:
        """Judge signals or reconstructions, in the model's range."""


class DiscriminatorConfig(Configuration):
    """Settings of a discriminator; each subclass has a `kind: Literal[...]`."""

    @abstractmethod
    def build(self, signal: SignalSpec) -> Discriminator:
        """Build the untrained discriminator.

        Raises:
            InputError: if it cannot judge such signals.
        """


DISCRIMINATORS = Registry("discriminator", DiscriminatorConfig, "smalti.objectives.discriminators")
"""Kinds of discriminators."""

AnyDiscriminator = Annotated[DiscriminatorConfig, DISCRIMINATORS]
