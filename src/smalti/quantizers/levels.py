"""Numbers of levels of the channels of a finite scalar quantizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.core.errors import InputError

MOST_CODES = 2**63
"""Number of codes that int64 can hold."""


def as_levels(levels: Any) -> tuple[Any, ...]:
    """Convert the number of levels of each channel to a tuple, for a config to check.

    Raises:
        InputError: if they are not a sequence.
    """
    if not isinstance(levels, Iterable) or isinstance(levels, str):
        raise InputError(
            f"expected the number of levels of each channel, received {levels!r}: pass a list or tuple, "
            "such as (8, 5, 5, 5)"
        )
    return tuple(levels)


def num_combinations(levels: Sequence[int]) -> int:
    """Compute the number of combinations of levels.

    Raises:
        InputError: if it exceeds int64.
    """
    product = math.prod(levels)
    if product > MOST_CODES:
        raise InputError(
            f"expected levels whose product is at most 2**63, received {product:,} codes: use fewer channels "
            "or levels"
        )
    return product


def place_values(levels: Sequence[int]) -> list[int]:
    """Return the factor of each channel's level in the number of a combination, the first channel lowest."""
    return [math.prod(levels[:channel]) for channel in range(len(levels))]


def set_values(buffer: Int64[Tensor, " d"], values: Sequence[int]) -> None:
    """Set a buffer that is derived from the settings and not saved.

    A module that was built on the meta device has none: `to_empty` leaves it without values, and no state
    holds them.
    """
    if not buffer.is_meta:
        buffer.copy_(torch.tensor(values))
