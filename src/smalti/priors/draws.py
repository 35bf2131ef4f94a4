"""Draws in batches with one generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor

from smalti.core.arguments import check_count, check_seed

Progress = Callable[[int, int], None]
"""Called with (symbols drawn, total symbols)."""


class DrawSettings(TypedDict, total=False):
    """Settings of draws from a prior, see `smalti.Tokenizer.sample_codes`."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    batch_size: int
    progress: Progress | None
    guidance: float


def seeded_generator(seed: int | None) -> torch.Generator:
    """Return a generator of this seed; None uses a new random seed.

    Raises:
        InputError: for another type, or a seed out of range.
    """
    seed = check_seed(seed)
    generator = torch.Generator()
    generator.manual_seed(seed) if seed is not None else generator.seed()
    return generator


def draw_in_batches(
    draw: Callable[..., Tensor], num: int, batch_size: int, seed: int | None, progress: Progress | None
) -> Tensor:
    """Call `draw` in batches with one generator; return CPU tensors.

    Args:
        draw: `(items, generator=..., progress=...) -> Tensor`, where `items` is a slice of the `num` items.
        num: number of items.
        batch_size: maximum number of items per call.
        seed: of the generator.
        progress: of the whole.

    Raises:
        InputError: if `num`, `batch_size` or the seed is not a number in its range.
    """
    num, batch_size = check_count("num", num), check_count("batch_size", batch_size)
    generator, parts = seeded_generator(seed), []
    batches = math.ceil(num / batch_size)
    for batch in range(batches):
        items = slice(batch * batch_size, min(num, (batch + 1) * batch_size))
        report = progress and _of_batch(progress, batch, batches)
        parts.append(draw(items, generator=generator, progress=report).cpu())
    return torch.cat(parts)


def _of_batch(progress: Progress, batch: int, batches: int) -> Progress:
    """Convert the progress of one of several equal batches to progress over all of them."""
    return lambda done, total: progress(batch * total + done, batches * total)
