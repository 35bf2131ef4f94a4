"""Phases of a training step: which parameters minimise which loss, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from torch import nn

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.results import Loss


@final
@dataclass(frozen=True)
class Phase:
    """One (parameters, loss) pair of a training step, with an optimizer of its own.

    While a phase runs, the model's other parameters do not require gradients: the loss may backpropagate
    through them (a generator's loss through its discriminator), but they do not accumulate gradients.

    Attributes:
        name: prefix of the phase's metrics and of its optimizer state; letters, digits, `_` and `-`.
        parameters: parameters that this phase updates; they must have the same order in every process and in
            every resumed run.
        loss: maps a batch to the loss of this phase, usually a bound method of the model.
        every: the phase runs every `every` steps, counted from `start`.
        start: first step of the phase (steps count from 0).
        learning_rate_scale: factor on the learning rate of the training config.
        betas: Adam's decay rates of the averages of the gradient and of its square, each in [0, 1).

    Raises:
        InputError: if a setting is out of range.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch], Loss]
    every: int = 1
    start: int = 0
    learning_rate_scale: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise InputError(
                f"expected a phase name of letters, digits, _ and -, received {self.name!r}: rename the phase"
            )
        if not self.parameters:
            raise InputError(
                f"expected parameters in the phase {self.name}, received none: leave it out of phases()"
            )
        if self.every < 1 or self.start < 0 or self.learning_rate_scale <= 0:
            raise InputError(
                "expected every >= 1, start >= 0 and learning_rate_scale > 0, received "
                f"{self.every}, {self.start} and {self.learning_rate_scale}: correct the phase {self.name}"
            )

        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(
                f"expected betas in [0, 1), received {self.betas}: correct the phase {self.name}"
            )

    def is_due(self, step: int) -> bool:
        """Return True if the phase runs in a step, counted from 0."""
        return step >= self.start and (step - self.start) % self.every == 0
