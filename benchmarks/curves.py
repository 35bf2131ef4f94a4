"""Learning curves of two models that should agree before their training steps are timed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

END, TOLERANCE = 20, 0.02
"""Final steps to average over, and tolerated relative difference of the averages."""


def agreeing(
    models: Mapping[str, nn.Module], data: Tensor, batch: int, lr: float, steps: int
) -> dict[str, object]:
    """Train on the same batches with Adam, check that the losses agree, and return them for a record.

    Args:
        models: `ours` and `theirs`, with equal weights; each maps a batch to its loss.
        data: `(N, C, H, W)`.
        batch: items of a batch.
        lr: learning rate.
        steps: number of steps.
    """
    losses: dict[str, list[float]] = {}
    for name, model in models.items():
        optimizer = torch.optim.Adam(model.parameters(), lr)
        generator = torch.Generator().manual_seed(0)
        losses[name] = []
        for _ in range(steps):
            loss = model(data[torch.randint(len(data), (batch,), generator=generator)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
    ends = {name: sum(values[-END:]) / END for name, values in losses.items()}
    difference = abs(ends["ours"] / ends["theirs"] - 1)
    assert difference < TOLERANCE, f"expected equal learning curves, received {ends}"
    return {
        "loss_steps": steps,
        "ours_loss": ends["ours"],
        "theirs_loss": ends["theirs"],
        "first_losses": [values[0] for values in losses.values()],
    }
