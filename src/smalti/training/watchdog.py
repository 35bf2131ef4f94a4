"""Stops a run whose loss or gradient is not finite, before a checkpoint is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from smalti.core.errors import Diverged
from smalti.training.checkpoints import RunDirectory

SYMPTOMS = ("loss", "gradient_norm")
"""Symptoms of divergence; the term that caused it is reported instead, if one is not finite."""


@final
class Watchdog:
    """Detects values that are not finite: on a CPU immediately, before the weights are updated; on a GPU
    without synchronisation, when `check` is called.

    Args:
        device: device of the values.
        directory: the run, whose last checkpoint is named in the error.
    """

    def __init__(self, device: torch.device, directory: RunDirectory) -> None:
        self._device, self._directory = device, directory
        # Keyed by phase and names, because the terms of a loss may change during training. Values: which
        # terms were not finite, and at which step, when this first occurred.
        self._first: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    def watch(self, prefix: str, values: Mapping[str, Tensor], step: int) -> None:
        """Record whether the scalars of a phase are finite at a step.

        Args:
            prefix: prefix of the phase for names in the error.
            values: scalars by name.
            step: counted from 1.

        Raises:
            Diverged: on a CPU, as `check` does.
        """
        key = (prefix, *values)
        bad = ~torch.stack([value.isfinite() for value in values.values()])
        at = torch.full((), step, device=bad.device)
        if key in self._first:
            bad_before, at_before = self._first[key]
            seen = bad_before.any()
            bad, at = torch.where(seen, bad_before, bad), torch.where(seen, at_before, at)
        self._first[key] = (bad, at)
        if self._device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Check the values recorded so far; this synchronises with the device.

        Raises:
            Diverged: if one of them is not finite; the error names the first step, the phase and the term.
        """
        found = [(int(at), key, bad.tolist()) for key, (bad, at) in self._first.items() if bool(bad.any())]
        if not found:
            return
        # The earliest step; of several phases in one step, the one recorded first in this process.
        step, (prefix, *names), bad = min(found, key=lambda each: each[0])
        nonfinite = [name for name, is_bad in zip(names, bad, strict=True) if is_bad]
        culprits = [name for name in nonfinite if name not in SYMPTOMS] or nonfinite[:1]
        state = self._directory.read_state()
        kept = f"the checkpoint of step {state.step} is kept" if state else "there was no checkpoint yet"
        raise Diverged(
            f"{', '.join(prefix + name for name in culprits)} stopped being finite at step {step}: {kept}; "
            "try a lower training.learning_rate or training.clip_norm"
        )
