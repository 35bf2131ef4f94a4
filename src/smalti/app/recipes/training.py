"""Training schedules that the recipes share."""

from __future__ import annotations

from smalti.training.loop import TrainingConfig


def cosine(
    steps: int,
    batch_size: int,
    learning_rate: float = 4e-4,
    *,
    warmup_steps: int = 100,
    weight_ema: float = 0.999,
    validate_every: int | None = None,
    checkpoint_every: int = 500,
) -> TrainingConfig:
    """Return a cosine schedule with weight averaging; see `TrainingConfig` for the arguments.

    The defaults suit tens of thousands of steps.
    """
    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        schedule="cosine",
        weight_ema=weight_ema,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
    )


def short_cosine(
    steps: int,
    batch_size: int,
    learning_rate: float = 1e-3,
    *,
    weight_ema: float = 0.99,
    validate_every: int | None = None,
    checkpoint_every: int = 500,
) -> TrainingConfig:
    """`cosine` for up to a few thousand steps: higher learning rate, shorter warm-up, faster averaging."""
    return cosine(
        steps,
        batch_size,
        learning_rate,
        warmup_steps=50,
        weight_ema=weight_ema,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
    )
