"""Convert espeak's phoneme symbols to ARPAbet, and its phoneme events to segments without gaps."""

from __future__ import annotations

from collections.abc import Sequence

SILENCE = "SIL"

_SPELLINGS = {
    "AA": "ɑ ɑɹ ɒ",
    "AE": "a æ ɛə",
    "AH": "ə ɐ ʌ",
    "AO": "ɔ ɔɹ",
    "AW": "aʊ ʌʉ",
    "AY": "aɪ aɪə aɪɚ",
    "B": "b",
    "CH": "tʃ",
    "D": "d",
    "DH": "ð",
    "EH": "ɛ ɛɹ eə",
    "ER": "ɚ ɜ əɹ əɪ ʌɹ",
    "EY": "e eɪ",
    "F": "f",
    "G": "ɡ",
    "HH": "h",
    "IH": "ɪ ᵻ ɪɹ iə",
    "IY": "i",
    "JH": "dʒ",
    "K": "k",
    "L": "l əl",
    "M": "m",
    "N": "n n\u0329",
    "NG": "ŋ",
    "OW": "o oʊ əʊ",
    "OY": "ɔɪ",
    "P": "p",
    "R": "ɹ r",
    "S": "s",
    "SH": "ʃ",
    "T": "t ɾ ʔ",
    "TH": "θ",
    "UH": "ʊ ʊɹ ʊə",
    "UW": "u ʉ ʉɹ",
    "V": "v",
    "W": "w ʍ",
    "Y": "j ʲ",
    "Z": "z",
    "ZH": "ʒ",
}
# One espeak event is one phone: a vowel with r is the vowel, and əl is L. əɪ is the vowel of New York "bird".
PHONE_OF_SYMBOL = {symbol: phone for phone, symbols in _SPELLINGS.items() for symbol in symbols.split()}
"""espeak's symbol, without stress and length marks -> ARPAbet phone."""
PHONES = (*_SPELLINGS, SILENCE)
"""The 39 phones of ARPAbet, and silence."""


def phone_of(symbol: str) -> str:
    """Return the ARPAbet phone of an espeak symbol, such as AY for ˈaɪ.

    Raises:
        ValueError: when the symbol is unknown.
    """
    plain = symbol.translate({ord(mark): None for mark in "ˈˌː:"})
    if plain not in PHONE_OF_SYMBOL:
        raise ValueError(f"expected a symbol in PHONE_OF_SYMBOL, received {symbol!r}: add it there")
    return PHONE_OF_SYMBOL[plain]


def segments(events: Sequence[tuple[int, str]], num_samples: int) -> list[tuple[int, int, str]]:
    """Convert espeak's events to phone segments, without gaps from 0 to the end; empty ones are dropped.

    Args:
        events: start sample and symbol of each phoneme, in order.
        num_samples: length of the audio.

    Returns:
        Start and end (samples) and phone of each segment.
    """
    starts = [(0, SILENCE)]
    for index, (sample, symbol) in enumerate(events):
        # Events without a symbol are pauses, or the glide that links two vowels, as in "the old".
        unnamed = "Y" if _links_vowels(events, index) else SILENCE
        starts.append((sample, phone_of(symbol) if symbol else unnamed))
    merged: list[tuple[int, int, str]] = []
    for (start, phone), (end, _) in zip(starts, [*starts[1:], (num_samples, SILENCE)], strict=True):
        if merged and phone == SILENCE == merged[-1][2]:
            merged[-1] = (merged[-1][0], end, SILENCE)
        elif start < end:
            merged.append((start, end, phone))
    return merged


def _links_vowels(events: Sequence[tuple[int, str]], index: int) -> bool:
    """Return True for a single event between two vowels: pauses come in pairs, or before a consonant."""
    if not 0 < index < len(events) - 1:
        return False
    neighbours = events[index - 1][1], events[index + 1][1]
    return all(symbol and phone_of(symbol)[0] in "AEIOU" for symbol in neighbours)
