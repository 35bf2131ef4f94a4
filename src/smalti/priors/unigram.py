"""Unigram prior: code frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.arguments import check_count, check_draws, check_grid
from smalti.core.coders import SymbolCoder
from smalti.core.conditioners import check_given_conditions
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.pretrained import Pretrained
from smalti.core.priors import DensityPrior
from smalti.nn.symbols import check_counts
from smalti.priors.uniform import NO_CONDITIONS


@final
class UnigramPrior(DensityPrior, Pretrained):
    """Each code with its frequency in the training split, independent of position; one table per codebook.

    Frequencies are smoothed by `smoothing` pseudo-counts per code, so that a code never seen has a finite
    rate.

    Args:
        num_codes: codes K of each codebook.
        num_codebooks: codes G at each position.
        grid: size of the code grid.
        smoothing: pseudo-counts per code.

    Raises:
        InputError: for sizes that are not whole numbers of at least 1, more codes than a table can hold, or
            a negative smoothing.
    """

    name = "unigram"
    counts: Tensor

    def __init__(
        self, num_codes: int, num_codebooks: int, grid: Sequence[int], smoothing: float = 1.0
    ) -> None:
        super().__init__()
        num_codes = check_count("num_codes", num_codes)
        num_codebooks = check_count("num_codebooks", num_codebooks)
        check_counts(num_codes, num_codebooks)
        if not smoothing >= 0:
            raise InputError(
                f"expected a smoothing of at least 0 pseudo-counts, received {smoothing}: use 1 for a finite "
                "rate of every code"
            )
        self.grid, self.smoothing = check_grid(grid), smoothing
        self.register_buffer("counts", torch.zeros(num_codebooks, num_codes, dtype=torch.int64))

    def settings(self) -> dict[str, Any]:
        """The arguments of the constructor; the counts are the weights."""
        num_codebooks, num_codes = self.counts.shape
        return {
            "num_codes": num_codes,
            "num_codebooks": num_codebooks,
            "grid": list(self.grid),
            "smoothing": self.smoothing,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> UnigramPrior:
        """Build the prior, without counts."""
        return cls(**settings)

    @torch.no_grad()
    def count(self, codes: Int64[Tensor, "b g *grid"]) -> None:
        """Add codes to the counts."""
        for row, of_codebook in zip(self.counts, codes.transpose(0, 1), strict=True):
            row += torch.bincount(of_codebook.flatten(), minlength=len(row)).to(row)

    def log_table(self) -> Float[Tensor, "g k"]:
        """ln of the smoothed frequencies."""
        smoothed = self.counts.double() + self.smoothing
        return (smoothed / smoothed.sum(1, keepdim=True)).log().float()

    def log_prob(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = NO_CONDITIONS
    ) -> Float[Tensor, " b"]:
        """Sum of the log-frequencies of the codes."""
        table = self.log_table()
        picked = [table[g][codes[:, g]].flatten(1).sum(1) for g in range(len(table))]
        return torch.stack(picked).sum(0)

    def code(
        self, codes: Int64[Tensor, "b g *grid"], coder: SymbolCoder, conditions: Conditions = NO_CONDITIONS
    ) -> None:
        """Code the codes of one codebook after another by their frequencies."""
        for own, frequencies in zip(codes.unbind(1), self.counts.double() + self.smoothing, strict=True):
            coder.categorical(own, frequencies)

    def sample(
        self,
        num: int,
        conditions: Conditions = NO_CONDITIONS,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Draw independent codes by frequency; only the temperature has an effect.

        Raises:
            InputError: for any condition, or settings out of range.
        """
        check_given_conditions(conditions, self)
        num = check_count("num", num)
        check_draws(temperature, top_k, top_p)
        # Draw on the generator's device.
        source = generator.device if generator is not None else self.counts.device
        weights = (self.log_table() / max(temperature, 1e-4)).softmax(1).to(source)
        positions = math.prod(self.grid)
        drawn = [torch.multinomial(row, num * positions, True, generator=generator) for row in weights]
        return torch.stack([d.view(num, *self.grid) for d in drawn], 1).to(self.counts.device)
