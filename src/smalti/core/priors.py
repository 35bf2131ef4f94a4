"""Abstract classes of networks over codes and of priors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.config import Configuration
from smalti.core.registry import Registry


class SamplingKernel(ABC):
    """A whole sampling loop, compiled for one device, that goes on from a network's state."""

    @abstractmethod
    def draw(self, uniform: Float[np.ndarray, "s b"], temperature: float = 1.0) -> Int64[np.ndarray, "s b"]:
        """The next symbols of each item, each by inverting its cumulative distribution at one number.

        Args:
            uniform: in [0, 1), one for each symbol of each item.
            temperature: divides the logits; 0 takes the most probable symbol.
        """


class AutoregressiveNetwork(nn.Module, ABC):
    """Predicts each symbol from those before it and from conditions, at two speeds through the same layers.

    Symbols are ordered by position (row-major over the grid), and by codebook within a position, unless a
    network has an `order` of its own.
    """

    num_codebooks: int
    num_codes: int
    num_classes: int
    num_actions: int = 0
    """Actions that it is told of clips; 0 for a network that heeds none."""
    code_layout: object = None
    """The `Autoencoder.code_layout` that it is made for; None where any will do."""

    @abstractmethod
    def forward(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = ...
    ) -> Float[Tensor, "b g *grid k"]:
        """Logits of every symbol at once. Those of symbol i depend only on symbols before i."""

    @abstractmethod
    def start(self, batch_size: int, grid: Sequence[int], conditions: Conditions = ...) -> Any:
        """State before the first symbol, for `step`."""

    @abstractmethod
    def step(self, previous: Int64[Tensor, " b"] | None, state: Any) -> Float[Tensor, "b k"]:
        """Logits of the next symbol.

        Args:
            previous: the symbol that the last call's logits were for; None at the first call.
            state: what `start` gave; it is updated in place.
        """

    def order(self, grid: Sequence[int]) -> Int64[Tensor, " symbols"] | None:
        """Where, by position and codebook, the symbols lie that come first, second, ...; None: in order."""
        return None

    def skip(self, codes: Int64[Tensor, "b g *first"], state: Any) -> None:
        """Take the first stretch of the grid as given; the next `step` is then told the last of its symbols.

        Args:
            codes: as long as the grid but on its first axis, where they are its beginning.
            state: fresh; it is updated in place.
        """
        previous = None
        for symbol in codes.flatten(2).transpose(1, 2).flatten(1).unbind(1):
            self.step(previous, state)
            previous = symbol

    def kernel(self, state: Any) -> SamplingKernel | None:
        """A faster way to draw all that follows a fresh state, or None where there is none.

        It computes what `step` computes, up to the order of sums.
        """
        return None


class NetworkConfig(Configuration):
    """Settings of an autoregressive network over codes; each kind has a `kind: Literal[...]`."""

    def build(
        self, num_codes: int, num_codebooks: int = 1, num_classes: int = 0, num_actions: int = 0
    ) -> AutoregressiveNetwork:
        """The untrained network.

        Args:
            num_codes: codes K of each codebook.
            num_codebooks: codes G of each position.
            num_classes: number of labels; 0 for a network that ignores them.
            num_actions: number of actions of clips; a network that is not of clips ignores them.

        Raises:
            InputError: when it cannot predict such codes.
        """
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of the network's constructor: every setting but the kind."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}


NETWORKS = Registry("network", NetworkConfig, "smalti.autoregressive")

AnyNetwork = Annotated[NetworkConfig, NETWORKS]


class Prior(nn.Module, ABC):
    """A distribution over code grids that can be sampled."""

    name: str

    @abstractmethod
    def sample(
        self,
        num: int,
        conditions: Conditions = ...,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "b g *grid"]: ...


class DensityPrior(Prior):
    """A prior whose probabilities are known, so that models can be measured with it in bits."""

    @abstractmethod
    def log_prob(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = ...
    ) -> Float[Tensor, " b"]:
        """ln p(codes | conditions) of each item, nats, summed over its positions and codebooks."""
