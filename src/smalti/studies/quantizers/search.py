"""Search of loss weights: a fixed number of settings, the same for every quantizer, on validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

from smalti.core.errors import InputError
from smalti.core.parts import QuantizerConfig

SPREAD = 4.0
"""Ratio of neighbouring values of a weight."""

Weights = dict[str, float]
"""Values of loss weights, by key."""


def check_number(num: int) -> None:
    """Check that the defaults can be in the middle of the settings to try.

    Raises:
        InputError: if the number is even.
    """
    if num % 2 == 0:
        raise InputError(f"expected an odd number of settings to search, received {num}: pass {num + 1}")


def trials(config: QuantizerConfig, weights: Sequence[str], num: int) -> list[Weights]:
    """Settings of the loss weights to try, the defaults in the middle.

    Weight j takes the value default * 4^e with e = (j + 1) i modulo `num`, for i from -(num - 1) / 2 to
    (num - 1) / 2: each weight takes every value once, and the ratio of two weights varies.

    Args:
        config: with the default weights.
        weights: keys of the weights; without any there is one setting, {}.
        num: number of settings; see `check_number`.
    """
    if not weights:
        return [{}]
    half = num // 2
    return [
        {
            name: value_of(config, name) * SPREAD ** _centred((j % max(1, num - 1) + 1) * i, num)
            for j, name in enumerate(weights)
        }
        for i in range(-half, half + 1)
    ]


def value_of(config: QuantizerConfig, key: str) -> float:
    """Value of a setting by dotted key."""
    return float(reduce(getattr, key.split("."), config))


def best(scores: Sequence[tuple[Weights, float]]) -> Weights:
    """Weights with the lowest score; of equal ones, those nearest to the defaults, in the middle.

    Raises:
        InputError: if no score is finite.
    """
    middle = len(scores) // 2
    ordered = sorted(range(len(scores)), key=lambda index: (scores[index][1], abs(index - middle)))
    chosen, score = scores[ordered[0]]
    if score == float("inf"):
        raise InputError("expected one setting of the loss weights that trains, received none")
    return chosen


def described(weights: Mapping[str, float]) -> str:
    """The weights in a few words, such as "commitment=0.25", for tables and titles."""
    names = {key: key.rpartition(".")[2].removesuffix("_weight") for key in weights}
    return ", ".join(f"{names[key]}={value:.4g}" for key, value in weights.items())


def _centred(number: int, num: int) -> int:
    """The residue modulo `num`, from -(num - 1) / 2 to (num - 1) / 2."""
    half = num // 2
    return (number + half) % num - half
