"""Stops a run whose loss or gradient is not finite, before a checkpoint is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from smalti.core.errors import InputError
from smalti.training.checkpoints import RunDirectory

SYMPTOMS = ("loss", "gradient_norm")
"""These only follow the term that began it."""


@final
class Watchdog:
    """Notices values that are not finite: on a CPU at once, before the weights are updated with them; on a
    GPU without waiting for the device, when `check` is called.

    Args:
        device: where the values are computed.
        directory: the run, whose last checkpoint the message names.
    """

    def __init__(self, device: torch.device, directory: RunDirectory) -> None:
        self._device, self._directory = device, directory
        # By phase and names, because the terms of a loss may change during training: which of the values
        # were not finite when one first was not, and in which step.
        self._first: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    def watch(self, prefix: str, values: Mapping[str, Tensor], step: int) -> None:
        """Remember whether the scalars of a phase are finite in a step.

        Args:
            prefix: of the phase, put before the names in the message.
            values: scalars by name.
            step: the first is 1.

        Raises:
            InputError: as `check` does, on a CPU.
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
        """Wait for the values watched so far.

        Raises:
            InputError: if one of them is not finite; it names the first step, the phase and the term.
        """
        found = [(int(at), key, bad.tolist()) for key, (bad, at) in self._first.items() if bool(bad.any())]
        if not found:
            return
        # The earliest; of several phases in one step, the one that was watched first in this process.
        step, (prefix, *names), bad = min(found, key=lambda each: each[0])
        spoilt = [name for name, is_bad in zip(names, bad, strict=True) if is_bad]
        culprits = [name for name in spoilt if name not in SYMPTOMS] or spoilt[:1]
        state = self._directory.read_state()
        kept = f"the checkpoint of step {state.step} is kept" if state else "there was no checkpoint yet"
        raise InputError(
            f"{', '.join(prefix + name for name in culprits)} stopped being finite at step {step}: {kept}; "
            "try a lower training.learning_rate or training.clip_norm"
        )
