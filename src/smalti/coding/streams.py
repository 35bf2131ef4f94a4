"""Entropy coders: range coding by the package constriction, and a digest of distributions.

constriction rounds each distribution to multiples of 2^-24, at least one for every symbol, by the same
arithmetic in the encoder and the decoder. The masses that it is given must be equal to the last bit.
"""

from __future__ import annotations

import hashlib
from typing import Any, final

import constriction
import numpy as np
from jaxtyping import Float64, Int32

from smalti.core.coders import SymbolCoder
from smalti.core.errors import InputError

_package: Any = constriction  # it has no types
_stream = _package.stream

MOST_SYMBOLS = 1 << 22
"""Largest alphabet of one symbol: beyond it, 24 bits of precision would distort the probabilities."""


@final
class Encoder(SymbolCoder):
    """Encodes symbols to bytes.

    Attributes:
        bits: information content of the symbols so far, -log2 of their probabilities before rounding.
    """

    def __init__(self) -> None:
        self._encoder = _stream.queue.RangeEncoder()
        self.bits = 0.0

    def code(
        self, symbols: Int32[np.ndarray, " n"], masses: Float64[np.ndarray, "*n k"]
    ) -> Int32[np.ndarray, " n"]:
        """Encode symbols and return them; see `SymbolCoder.code`."""
        _check(masses)
        if masses.ndim == 1:
            self._encoder.encode(symbols, _stream.model.Categorical(masses, perfect=False))
            picked, total = masses[symbols], masses.sum()
        else:
            self._encoder.encode(symbols, _stream.model.Categorical(perfect=False), masses)
            picked, total = masses[np.arange(len(symbols)), symbols], masses.sum(1)
        self.bits += float((np.log2(total) - np.log2(picked)).sum())
        return symbols

    def finish(self) -> bytes:
        """Return everything encoded so far."""
        return self._encoder.get_compressed().astype("<u4").tobytes()


@final
class Decoder(SymbolCoder):
    """Decodes symbols from the bytes of an `Encoder`.

    Args:
        content: untrusted; any content decodes to symbols in range.

    Raises:
        InputError: if the length is not a multiple of four bytes.
    """

    def __init__(self, content: bytes) -> None:
        if len(content) % 4:
            raise InputError(
                f"expected a whole number of 4-byte words, received {len(content)} bytes: the file is damaged"
            )
        words = np.frombuffer(content, "<u4").astype(np.uint32)
        self._decoder = _stream.queue.RangeDecoder(words)

    def code(
        self, symbols: Int32[np.ndarray, " n"], masses: Float64[np.ndarray, "*n k"]
    ) -> Int32[np.ndarray, " n"]:
        """Decode as many symbols as given; see `SymbolCoder.code`.

        Raises:
            InputError: if the content cannot come from an encoder with these masses.
        """
        _check(masses)
        try:
            if masses.ndim == 1:
                model = _stream.model.Categorical(masses, perfect=False)
                return self._decoder.decode(model, len(symbols))
            return self._decoder.decode(_stream.model.Categorical(perfect=False), masses)
        except (AssertionError, ValueError) as error:
            raise InputError(
                f"expected a stream of {len(symbols)} more symbols, received one that ends or contradicts "
                "the model: the file is damaged, or another model encoded it"
            ) from error

    def check_end(self) -> None:
        """Raise `InputError` if symbols are left."""
        if not self._decoder.maybe_exhausted():
            raise InputError("expected no symbols after the last one, received more: the file is damaged")


class ProbeFull(Exception):
    """Ends a walk of a `Probe` that has seen enough."""


@final
class Probe(SymbolCoder):
    """Takes arbitrary symbols and digests the masses: equal digests mean equal models and equal arithmetic.

    Args:
        groups: number of groups of symbols after which `ProbeFull` is raised.
    """

    def __init__(self, groups: int) -> None:
        self.digest = hashlib.sha256()
        self._left = groups

    def code(
        self, symbols: Int32[np.ndarray, " n"], masses: Float64[np.ndarray, "*n k"]
    ) -> Int32[np.ndarray, " n"]:
        """Digest the masses and return symbols that depend on their position only."""
        if not self._left:
            raise ProbeFull
        self._left -= 1
        self.digest.update(masses.astype("<f8").tobytes())
        return (np.arange(len(symbols)) * 7 % masses.shape[-1]).astype(np.int32)


def _check(masses: Float64[np.ndarray, "*n k"]) -> None:
    if masses.shape[-1] > MOST_SYMBOLS:
        raise InputError(
            f"expected at most {MOST_SYMBOLS} codes for a table of probabilities, received "
            f"{masses.shape[-1]}: use the uniform prior"
        )
    if not np.isfinite(masses).all():
        raise InputError(
            "expected finite probabilities, received others: the model or its prior has diverged; train it "
            "again"
        )
