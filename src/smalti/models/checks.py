"""Checks of the types of the parts that a model is given."""

from __future__ import annotations

from torch import nn

from smalti.core.errors import InputError
from smalti.core.parts import LikelihoodFamily, Quantizer
from smalti.core.signals import SignalSpec

EXPECTED: dict[str, type] = {
    "encoder": nn.Module,
    "quantizer": Quantizer,
    "decoder": nn.Module,
    "likelihood": LikelihoodFamily,
    "signal": SignalSpec,
}


def check_types(**parts: object) -> None:
    """Check the types of parts, by their names in `EXPECTED`.

    Raises:
        InputError: if one has another type.
    """
    for name, part in parts.items():
        if not isinstance(part, EXPECTED[name]):
            raise InputError(
                f"expected the {name} of a model as a {EXPECTED[name].__name__}, received a "
                f"{type(part).__name__}: build one, or inherit from that class"
            )
