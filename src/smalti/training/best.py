"""The weights with the lowest validation score of a run, kept beside the ones that are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

_PREFIX = "best."
_STEP, _SCORE = "best_step", "best_score"


@final
class Best:
    """Lowest validation score so far, and the weights that gave it.

    Args:
        keeps_weights: whether to copy weights, to the host's memory; otherwise only the score is kept.

    Attributes:
        step: step of the lowest score; None before the first finite score.
        score: the lowest score; infinite before the first.
        weights: weights at that step, or None.
    """

    def __init__(self, keeps_weights: bool) -> None:
        self._keeps_weights = keeps_weights
        self.step: int | None = None
        self.score = math.inf
        self.weights: dict[str, Tensor] | None = None

    def offer(self, step: int, score: float, model: nn.Module) -> bool:
        """Take over the weights of a model if its score is the lowest so far; return whether it is.

        Args:
            step: number of training steps done.
            score: less is better; a score that is not finite is never taken.
            model: the model that was validated.
        """
        if not (math.isfinite(score) and score < self.score):
            return False
        self.step, self.score = step, score
        if self._keeps_weights:
            # Copied even on a CPU, since training goes on in place.
            state = model.state_dict()
            self.weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        return True

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs to go on from here; empty before the first score."""
        if self.step is None:
            return {}
        weights = {_PREFIX + name: tensor for name, tensor in (self.weights or {}).items()}
        score = torch.tensor(self.score, dtype=torch.float64)
        return {_STEP: torch.tensor(self.step), _SCORE: score, **weights}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the tensors of a checkpoint, of any version."""
        if _STEP not in tensors:
            return
        self.step, self.score = int(tensors[_STEP]), float(tensors[_SCORE])
        weights = {
            name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)
        }
        self.weights = weights if weights and self._keeps_weights else None
