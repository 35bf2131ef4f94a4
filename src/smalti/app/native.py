"""The option `--size`: items at their native height and width, or at the size of the training."""

from __future__ import annotations

from typing import Literal

from smalti.core.errors import InputError
from smalti.tokenizer import Tokenizer

Size = Literal["model", "native"]


def at_size(tokenizer: Tokenizer, size: Size | None) -> Tokenizer:
    """Return the tokenizer for items of a size; None is "native" if the model takes any size.

    Raises:
        InputError: if the size is "native" and the model takes the size of its training only.
    """
    if size == "model":
        return tokenizer
    try:
        return tokenizer.native()
    except InputError:
        if size == "native":
            raise
        return tokenizer
