"""Priors over code grids: uniform, unigram, and learned by an autoregressive network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.autoregressive.sampling import sample
from smalti.interfaces import AutoregressiveNetwork, Batch, Conditions, InputError, Loss, Prior, Trainable

NO_CONDITIONS = Conditions()
PADDING = -100
"""Stands for a code that is not there."""


@final
class UniformPrior(Prior):
    """Every code equally likely, everywhere: ln K nats a code. The prior of the paper's training."""

    name = "uniform"

    def __init__(self, num_codes: int, num_codebooks: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.num_codes, self.num_codebooks, self.grid = num_codes, num_codebooks, tuple(grid)

    def log_prob(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = NO_CONDITIONS
    ) -> Float[Tensor, " b"]:
        """-N ln K, the same for every item."""
        per_item = -math.log(self.num_codes) * codes[0].numel()
        return torch.full((len(codes),), per_item, device=codes.device)

    def sample(
        self,
        num: int,
        conditions: Conditions = NO_CONDITIONS,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Independent uniform codes, on the generator's device; the other settings change nothing."""
        shape = (num, self.num_codebooks, *self.grid)
        device = generator.device if generator is not None else None
        return torch.randint(self.num_codes, shape, generator=generator, device=device)


@final
class UnigramPrior(Prior):
    """Each code with its frequency in the training split, independent of place; one table a codebook.

    Frequencies are smoothed by `smoothing` pseudo-counts a code, so that a code never seen has a rate.
    """

    name = "unigram"
    counts: Tensor

    def __init__(
        self, num_codes: int, num_codebooks: int, grid: Sequence[int], smoothing: float = 1.0
    ) -> None:
        super().__init__()
        self.grid, self.smoothing = tuple(grid), smoothing
        self.register_buffer("counts", torch.zeros(num_codebooks, num_codes, dtype=torch.int64))

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
        """Sum of the codes' log-frequencies."""
        table = self.log_table()
        picked = [table[g][codes[:, g]].flatten(1).sum(1) for g in range(len(table))]
        return torch.stack(picked).sum(0)

    def sample(
        self,
        num: int,
        conditions: Conditions = NO_CONDITIONS,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Independent codes by frequency; only temperature is heeded."""
        # The generator decides where the numbers are made.
        source = generator.device if generator is not None else self.counts.device
        weights = (self.log_table() / max(temperature, 1e-4)).softmax(1).to(source)
        positions = math.prod(self.grid)
        drawn = [torch.multinomial(row, num * positions, True, generator=generator) for row in weights]
        return torch.stack([d.view(num, *self.grid) for d in drawn], 1).to(self.counts.device)


@final
class LearnedPrior(Prior, Trainable):
    """An autoregressive network over the frozen codes of a trained autoencoder.

    Args:
        network: what predicts each code.
        grid: of the codes.
        name: under which it is reported.
    """

    def __init__(self, network: AutoregressiveNetwork, grid: Sequence[int], name: str = "learned") -> None:
        super().__init__()
        self.network, self.grid, self.name = network, tuple(grid), name

    def loss(self, batch: Batch) -> Loss:
        """Mean cross-entropy of a code, nats; `batch.data` are codes `(B, G, *grid)`."""
        codes = batch.data.long()
        logits = self.network(codes, batch.conditions)
        if batch.lengths is not None:
            # Every item counts by its codes; what follows a short one is no code of it.
            beyond = torch.arange(codes.shape[2], device=codes.device) >= batch.lengths.unsqueeze(1)
            codes = codes.masked_fill(beyond.view(len(codes), 1, -1, *(1,) * (codes.ndim - 3)), PADDING)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), codes.flatten(), ignore_index=PADDING)
        return Loss(total=loss, terms={"bits_per_code": loss.detach() / math.log(2)})

    def log_prob(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = NO_CONDITIONS
    ) -> Float[Tensor, " b"]:
        """Sum over positions and codebooks of ln p(code | those before it, conditions).

        A clip of more frames than the prior was trained on is taken in stretches of so many, each by itself:
        what attends to all before it would see places that it never learned.
        """
        if codes.ndim > 3 and codes.shape[2] > self.grid[0]:
            parts, done = codes.split(self.grid[0], 2), None
            if conditions.actions is not None:
                done = conditions.actions.split(self.grid[0], 1)
            told = [replace(conditions, actions=done and done[i]) for i in range(len(parts))]
            return torch.stack([self.log_prob(*each) for each in zip(parts, told, strict=True)]).sum(0)
        logits = self.network(codes, conditions).float()
        nats = torch.nn.functional.cross_entropy(logits.flatten(0, -2), codes.flatten(), reduction="none")
        return -nats.view(len(codes), -1).sum(1)

    def sample(
        self,
        num: int,
        conditions: Conditions = NO_CONDITIONS,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
        grid: Sequence[int] | None = None,
        given: Int64[Tensor, "b g *first"] | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Draw grids through the cached loop; of another size than it was trained on where `grid` says so.

        `given` is the beginning of each, which is gone on from.

        Raises:
            InputError: for labels on a prior without classes, or settings out of range.
        """
        if conditions.labels is not None and not self.network.num_classes:
            raise InputError("expected no class, this prior was trained without classes: leave --class out")
        return sample(
            self.network,
            num,
            grid or self.grid,
            conditions,
            temperature,
            top_k,
            top_p,
            generator,
            progress,
            given=given,
        )


@final
class LabelledPrior(Prior):
    """A learned prior that is told each item's class, and pays for it: p(z) >= p(z | y) / number of classes.

    So its rate is a bound on data whose class the receiver does not know. Items without a label (-1) are
    given none and pay nothing.
    """

    takes_labels = True

    def __init__(self, prior: LearnedPrior) -> None:
        super().__init__()
        self.prior, self.name = prior, f"{prior.name}+class"

    def log_prob(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions = NO_CONDITIONS
    ) -> Float[Tensor, " b"]:
        """ln p(codes | class) - ln(number of classes)."""
        # Nothing is paid for actions, so nothing is told of them.
        log_prob = self.prior.log_prob(codes, Conditions(conditions.labels))
        if conditions.labels is None:
            return log_prob
        return log_prob - math.log(self.prior.network.num_classes) * (conditions.labels >= 0)

    def sample(
        self,
        num: int,
        conditions: Conditions = NO_CONDITIONS,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """As the learned prior samples."""
        return self.prior.sample(num, conditions, temperature, top_k, top_p, generator)
