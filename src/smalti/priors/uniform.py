"""Uniform prior over codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.arguments import check_count, check_draws, check_grid
from smalti.core.coders import SymbolCoder
from smalti.core.conditioners import check_given_conditions
from smalti.core.conditions import Conditions
from smalti.core.priors import DensityPrior

NO_CONDITIONS = Conditions()


@final
class UniformPrior(DensityPrior):
    """Uniform distribution over codes, ln K nats per code: the prior of the paper's training.

    Args:
        num_codes: codes K of each codebook.
        num_codebooks: codes G at each position.
        grid: size of the code grid.

    Raises:
        InputError: for sizes that are not whole numbers of at least 1.
    """

    name = "uniform"

    def __init__(self, num_codes: int, num_codebooks: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.num_codes = check_count("num_codes", num_codes)
        self.num_codebooks = check_count("num_codebooks", num_codebooks)
        self.grid = check_grid(grid)

    def log_prob(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = NO_CONDITIONS
    ) -> Float[Tensor, " b"]:
        """-N ln K, the same for every item."""
        per_item = -math.log(self.num_codes) * math.prod(codes.shape[1:])
        return torch.full((len(codes),), per_item, device=codes.device)

    def code(
        self, codes: Int64[Tensor, "b g *grid"], coder: SymbolCoder, conditions: Conditions = NO_CONDITIONS
    ) -> None:
        """Code all codes with equal probabilities."""
        coder.uniform(codes, self.num_codes)

    def sample(
        self,
        num: int,
        conditions: Conditions = NO_CONDITIONS,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Draw independent uniform codes on the generator's device; the other settings have no effect.

        Raises:
            InputError: for any condition, or settings out of range.
        """
        check_given_conditions(conditions, self)
        num = check_count("num", num)
        check_draws(temperature, top_k, top_p)
        shape = (num, self.num_codebooks, *self.grid)
        device = generator.device if generator is not None else None
        # torch cannot draw from 2^63 codes: the last one is left out.
        return torch.randint(min(self.num_codes, 2**63 - 1), shape, generator=generator, device=device)
