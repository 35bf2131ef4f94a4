"""Settings of the second stage: a prior that is trained over the codes of a model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated

from smalti.core.config import Configuration
from smalti.core.priors import TrainablePrior
from smalti.core.registry import Registry
from smalti.training.loop import TrainingConfig


class PriorConfig(Configuration):
    """Settings of a prior and its training; each subclass has a `kind: Literal[...]`.

    Attributes:
        training: settings of the training loop.
    """

    training: TrainingConfig = TrainingConfig()

    @abstractmethod
    def build(
        self,
        num_codes: int,
        num_codebooks: int,
        grid: Sequence[int],
        conditions: Mapping[str, int] | None = None,
    ) -> TrainablePrior:
        """Build the untrained prior.

        Args:
            num_codes: number K of codes in each codebook.
            num_codebooks: number G of codes per position.
            grid: code grid of one item; of one training crop of the model for items that differ in length.
            conditions: number of ids of each id condition of the data, by name (`label`, `action`, ...). A
                prior embeds those that it knows, and ignores the others.

        Raises:
            InputError: if it cannot model such codes.
        """


PRIORS = Registry("prior", PriorConfig, "smalti.priors", default="autoregressive")
"""Kinds of priors; settings without a kind are those of an autoregressive one."""

AnyPrior = Annotated[PriorConfig, PRIORS]
