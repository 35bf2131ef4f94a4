"""Decoding of codes to signals in the range of a model."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from smalti.core.arguments import check_count, check_draws
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.models import Autoencoder
from smalti.core.precision import in_full_precision
from smalti.nn.symbols import as_codes
from smalti.priors.draws import seeded_generator


@torch.no_grad()
@in_full_precision
def decode_codes(
    model: Autoencoder,
    codes: Int64[Tensor, "b g *grid"],
    conditions: Conditions,
    batch_size: int,
    seed: int | None = 0,
    temperature: float = 1.0,
) -> Float[Tensor, "b c *size"]:
    """Decode codes in batches to signals in the model's range, on the CPU.

    Args:
        model: in evaluation mode.
        codes: of at least one item.
        conditions: of each item.
        batch_size: maximum number of items per batch; the draws of a seed depend on it.
        seed: of the draws of an autoregressive decoder; None uses a new random seed.
        temperature: of those draws.

    Raises:
        InputError: if codes or a setting are out of range.
    """
    check_draws(temperature)
    generator, batch_size = seeded_generator(seed), check_count("batch_size", batch_size)
    device, parts = next(model.parameters()).device, []
    for begin in range(0, len(codes), batch_size):
        items = slice(begin, begin + batch_size)
        own = conditions.part(items).to(device)
        parts.append(model.decode(codes[items].to(device), own, generator, temperature).cpu())
    return torch.cat(parts)


def cropped(signals: Sequence[Shaped[Tensor, "b c *_"]], sizes: Any) -> list[Shaped[Tensor, "b c *_"]]:
    """Remove the padding of decoded signals.

    Args:
        signals: of any sizes.
        sizes: of each original, along the first axes after the channels.

    Raises:
        InputError: if there is not one size for each signal, or one is not within its signal.
    """
    try:
        whole = [tuple(operator.index(side) for side in size) for size in sizes]
    except TypeError:
        raise InputError(
            f"expected a size for each item, such as [(height, width)], received {sizes!r}: pass a list of "
            "tuples of whole numbers"
        ) from None
    if len(whole) != len(signals):
        raise InputError(
            f"expected a size for each of {len(signals)} items, received {len(whole)}: pass as many sizes as "
            "items"
        )
    for signal, size in zip(signals, whole, strict=True):
        sides = tuple(signal.shape[2:])
        is_within = all(0 < wanted <= side for wanted, side in zip(size, sides, strict=False))
        if len(size) > len(sides) or not is_within:
            raise InputError(
                f"expected a size within that of the decoded item, {sides}, received {size}: pass the size "
                "of the original"
            )
    return [
        signal[(slice(None), slice(None), *map(slice, size))]
        for signal, size in zip(signals, whole, strict=True)
    ]


def checked_codes(codes: Any, item: Sequence[int | None]) -> Int64[Tensor, "b g *grid"]:
    """Codes of at least one item as a tensor.

    Args:
        codes: of the items, of any integer type, as a tensor, an array or nested lists.
        item: shape `(G, *grid)` of an item; None for a side of any length.

    Raises:
        InputError: if they are of another type or shape, or there is no item.
    """
    codes = as_codes(codes)
    fits = codes.ndim == 1 + len(item) and all(
        side > 0 if expected is None else side == expected
        for expected, side in zip(item, codes.shape[1:], strict=True)
    )
    if not fits or not len(codes):
        sides = ["?" if side is None else str(side) for side in item]
        raise InputError(
            f"expected codes of shape (B, {', '.join(sides)}), received "
            f"{tuple(codes.shape)}: pass codes of at least one item, made by this model"
        )
    return codes
