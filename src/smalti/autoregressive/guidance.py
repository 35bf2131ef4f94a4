"""Classifier-free guidance of autoregressive networks.

Source: Ho & Salimans 2022 (arXiv 2207.12598); for logits of codes, Gafni et al. 2022 (arXiv 2203.13131).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.priors import NO_CONDITIONS, AutoregressiveNetwork


@final
class GuidedNetwork(AutoregressiveNetwork):
    """Logits l(none) + w (l(conditions) - l(none)) of a network that was trained with some conditions hidden.

    Args:
        network: the network; it computes each step for twice the number of items.
        weight: w; 1 is the network itself, above 1 codes follow their conditions more closely.
        is_doubled: conditions already hold 2B items, the B unconditional ones last; by default, `start` and
            `forward` append them.
    """

    def __init__(self, network: AutoregressiveNetwork, weight: float, *, is_doubled: bool = False) -> None:
        super().__init__()
        self.network, self.weight, self._is_doubled = network, weight, is_doubled
        self.num_codebooks, self.num_codes = network.num_codebooks, network.num_codes
        self.condition_sizes, self.code_layout = network.condition_sizes, network.code_layout

    def forward(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = NO_CONDITIONS
    ) -> Float[Tensor, "b g *grid k"]:
        """Compute the guided logits of all symbols at once."""
        return self._guided(self.network(torch.cat([codes, codes]), self._of_both(conditions)))

    def start(self, batch_size: int, grid: Sequence[int], conditions: Conditions = NO_CONDITIONS) -> Any:
        """Create the state of both halves."""
        return self.network.start(2 * batch_size, grid, self._of_both(conditions))

    def step(self, previous: Int64[Tensor, " b"] | None, state: Any) -> Float[Tensor, "b k"]:
        """Compute the guided logits of the next symbol."""
        both = None if previous is None else torch.cat([previous, previous])
        return self._guided(self.network.step(both, state))

    def skip(self, codes: Int64[Tensor, "b g *first"], state: Any) -> None:
        """Set the first part of the grid in both halves."""
        self.network.skip(torch.cat([codes, codes]), state)

    def order(self, grid: Sequence[int]) -> Int64[Tensor, " symbols"] | None:
        """That of the network."""
        return self.network.order(grid)

    def _of_both(self, conditions: Conditions) -> Conditions:
        return conditions if self._is_doubled else conditions.with_unspecified()

    def _guided(self, logits: Float[Tensor, "both *any k"]) -> Float[Tensor, "b *any k"]:
        given, free = logits.chunk(2)
        return free + self.weight * (given - free)
