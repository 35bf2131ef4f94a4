"""The mapping from code grids to token sequences, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, final

import numpy as np
from jaxtyping import Int64, Integer
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.metadata import parse_json
from smalti.core.validation import checked_settings
from smalti.data.codes import CodesInfo

SEPARATORS = ("bos", "eos", "row", "frame")
"""Separators, in the order in which they are numbered: before an item, after it, after each row of a grid of
two or more axes, and after each frame of a grid of three axes."""

FORMAT = 1
MOST_TOKENS = 2**31
"""Bound of token ids: language models and Megatron's files hold at most 32-bit signed integers."""


@final
class TokenLayout(Configuration):
    """Maps codes `(G, *grid)` to a sequence of token ids, and back exactly.

    Positions follow each other row by row, and the G codes of a position stand together, slot by slot. The
    code c in slot g is the token `offset + g * stride + c`. Separators are tokens of their own.

    Attributes:
        num_codes: entries of each codebook.
        num_codebooks: codes per position, G.
        grid: sides of the grid; None for sides in which items differ.
        offset: token of code 0 in slot 0.
        stride: distance between the tokens of consecutive slots: at least `num_codes`, or 0 if all slots
            share their tokens.
        separators: token ids by name; see `SEPARATORS`.
        model: fingerprint of the tokenizer.
        format: version of the description.
    """

    num_codes: PositiveInt
    num_codebooks: PositiveInt
    grid: tuple[PositiveInt | None, ...]
    offset: NonNegativeInt
    stride: NonNegativeInt
    separators: dict[str, NonNegativeInt]
    model: str = ""
    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT

    @model_validator(mode="after")
    def _is_invertible(self) -> TokenLayout:
        unknown = set(self.separators).difference(SEPARATORS)
        if unknown:
            raise InputError(
                f"expected separators among {', '.join(SEPARATORS)}, received {min(unknown)}: leave it out"
            )
        for name, axes in (("row", 2), ("frame", 3)):
            if name in self.separators and len(self.grid) < axes:
                raise InputError(
                    f"expected a grid of {axes} axes for the separator {name}, received "
                    f"{self.grid}: leave it out"
                )
        if 0 < self.stride < self.num_codes:
            raise InputError(
                f"expected a stride of at least {self.num_codes}, the number of codes, or 0 for slots that "
                f"share their tokens, received {self.stride}: change it"
            )
        taken = list(self.separators.values())
        last = self.offset + (self.num_codebooks - 1) * self.stride + self.num_codes - 1
        if len(set(taken)) < len(taken) or any(self._is_code(token) for token in taken):
            raise InputError(
                f"expected separators with distinct tokens that are not those of codes, {self.offset} and "
                f"following, received {self.separators}: change the offset or the separators"
            )
        if max(last, *taken, 0) >= MOST_TOKENS:
            raise InputError(
                f"expected tokens below {MOST_TOKENS}, received up to {max(last, *taken, 0)}: choose a "
                "smaller offset or stride"
            )
        missing = [name for name in self._needed_separators if name not in self.separators]
        if missing:
            raise InputError(
                f"expected the separator {missing[0]} for items that differ in several sides of their grids, "
                "received none: add it"
            )
        return self

    @classmethod
    def of(
        cls,
        info: CodesInfo,
        separators: Sequence[str] = ("bos", "eos"),
        offset: int = 0,
        stride: int | None = None,
        known: Mapping[str, int] | None = None,
    ) -> TokenLayout:
        """Lay out the codes of a file: separators first, then codes.

        Args:
            info: of the codes.
            separators: names of the separators to use.
            offset: first token of all.
            stride: None gives each slot tokens of its own.
            known: separators that have a token already, such as the "eos" of a language model.

        Raises:
            InputError: if the layout is impossible.
        """
        known = known or {}
        own = [name for name in SEPARATORS if name in separators and name not in known]
        unknown = [name for name in separators if name not in SEPARATORS]
        fields: dict[str, Any] = {
            "num_codes": info.num_codes,
            "num_codebooks": info.num_codebooks,
            "grid": info.grid,
            "offset": offset + len(own),
            "stride": info.num_codes if stride is None else stride,
            "separators": {name: offset + i for i, name in enumerate([*own, *unknown])} | dict(known),
            "model": info.model,
        }
        return checked_settings(cls, **fields)

    @classmethod
    def read(cls, path: str | Path) -> TokenLayout:
        """Read the description beside a file of tokens, `tokens.json`.

        Raises:
            InputError: if it is missing or damaged.
        """
        try:
            fields = parse_json(Path(path).read_bytes())
            return cls.model_validate({name: fields[name] for name in cls.model_fields})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"expected a description of tokens in {path}, which is missing or damaged: make one with "
                "smalti tokens"
            ) from error

    def write(self, path: str | Path) -> None:
        """Write the description, with the derived values that other tools need."""
        derived = {
            "vocabulary_size": self.vocabulary_size,
            "dtype": self.dtype.name,
            "order": "position by position along the last axis, at each position slot by slot",
            "token_of_code": "offset + slot * stride + code",
            "names": {"codes": self._code_name("{slot}", "{code}"), "separators": self._separator_names},
        }
        Path(path).write_text(json.dumps(self.model_dump() | derived, indent=2) + "\n")

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest token."""
        last = self.offset + (self.num_codebooks - 1) * self.stride + self.num_codes - 1
        return 1 + max(last, *self.separators.values(), 0)

    @property
    def dtype(self) -> np.dtype:
        """Smallest unsigned type that holds all tokens."""
        return np.min_scalar_type(self.vocabulary_size - 1)

    @property
    def names(self) -> dict[int, str]:
        """Names of all tokens by id; codes of shared slots have that of the first slot."""
        slots = range(self.num_codebooks if self.stride else 1)
        codes = {
            self.offset + slot * self.stride + code: self._code_name(slot, code)
            for slot in slots
            for code in range(self.num_codes)
        }
        return {self.separators[name]: text for name, text in self._separator_names.items()} | codes

    def tokens(self, codes: Integer[np.ndarray, " g *grid"]) -> Integer[np.ndarray, " n"]:
        """Map the codes of one item to tokens.

        Raises:
            InputError: if they have another shape or are out of range.
        """
        codes = np.asarray(codes)
        sides = (self.num_codebooks, *self.grid)
        fits = codes.ndim == len(sides) and all(
            side > 0 if known is None else side == known
            for side, known in zip(codes.shape, sides, strict=True)
        )
        if not fits or codes.min() < 0 or codes.max() >= self.num_codes:
            raise InputError(
                f"expected codes of shape {sides} from 0 to {self.num_codes - 1}, received shape "
                f"{codes.shape}: use codes of the model {self.model}"
            )
        slots = self.offset + self.stride * np.arange(self.num_codebooks, dtype=np.int64)
        shifted = codes.astype(np.int64) + slots.reshape(-1, *[1] * len(self.grid))
        lines = np.moveaxis(shifted, 0, -1)
        if self.grid:
            lines = lines.reshape(*codes.shape[1:-1], -1)
        for name in ("row", "frame")[: max(0, len(self.grid) - 1)]:
            if name in self.separators:
                end = np.full((*lines.shape[:-1], 1), self.separators[name])
                lines = np.concatenate([lines, end], axis=-1)
            lines = lines.reshape(*lines.shape[:-2], -1)
        first, last = ([self.separators[name]] if name in self.separators else [] for name in ("bos", "eos"))
        return np.concatenate([first, lines.reshape(-1), last]).astype(self.dtype)

    def codes(self, tokens: Integer[np.ndarray, " n"]) -> Int64[np.ndarray, " g *grid"]:
        """Map the tokens of one item back to codes `(G, *grid)`.

        Raises:
            InputError: if they are not what `tokens` returns for any codes.
        """
        given = np.asarray(tokens).astype(np.int64)
        is_separator = np.isin(given, list(self.separators.values()))
        flat = given[~is_separator]
        shape = self._shape(given, len(flat))
        if shape is not None:
            slots = np.moveaxis(flat.reshape(*shape, self.num_codebooks), -1, 0)
            strides = self.stride * np.arange(self.num_codebooks, dtype=np.int64)
            codes = slots - self.offset - strides.reshape(-1, *[1] * len(shape))
            if (
                codes.min() >= 0
                and codes.max() < self.num_codes
                and np.array_equal(self.tokens(codes), given)
            ):
                return codes
        raise InputError(
            f"expected the tokens of one item of codes {(self.num_codebooks, *self.grid)}, received "
            f"{len(given)} tokens that are no such sequence: sample with TokenLayout.allowed"
        )

    def allowed(self, tokens: Sequence[int]) -> Int64[np.ndarray, " n"]:
        """Return the tokens that may follow the first tokens of an item; none after its end.

        Raises:
            InputError: if items differ in more than the first side.
        """
        if None in self.grid[1:]:
            raise InputError(f"expected a grid that is known but for its first side, received {self.grid}")
        starts, ends = (
            np.array([self.separators[name]] if name in self.separators else [], np.int64)
            for name in ("bos", "eos")
        )
        if len(tokens) < len(starts):
            return starts
        nothing = np.empty(0, np.int64)
        if ends.size and len(tokens) and tokens[-1] == ends[0]:
            return nothing
        unit, place = divmod(len(tokens) - len(starts), len(self._unit))
        num_units = self.grid[0] if self.grid else 1
        if unit == num_units:
            return ends
        may_end = num_units is None and unit > 0 and place == 0
        return np.concatenate([ends if may_end else nothing, self._unit[place]])

    @cached_property
    def _unit(self) -> list[np.ndarray]:
        """Tokens that are possible at each place of one step along the first axis."""
        positions = math.prod(side or 0 for side in self.grid[1:])
        of_position = [
            np.arange(self.num_codes) + self.offset + slot * self.stride for slot in range(self.num_codebooks)
        ]
        width = self.grid[-1] if len(self.grid) > 1 else None
        unit: list[np.ndarray] = []
        for position in range(1, positions + 1):
            unit += of_position
            if "row" in self.separators and width is not None and position % width == 0:
                unit.append(np.array([self.separators["row"]]))
        if "frame" in self.separators:
            unit.append(np.array([self.separators["frame"]]))
        return unit

    def _shape(self, tokens: np.ndarray, num_codes: int) -> tuple[int, ...] | None:
        """Grid of an item, by the numbers of its codes and separators; None if there is none."""
        remaining, rest = divmod(num_codes, self.num_codebooks)
        shape: list[int] = []
        for axis in reversed(range(len(self.grid))):
            side = self.grid[axis]
            if side is None:
                ends = self._ends(axis)
                # Each step along the axes before this one ends with such a token.
                num = 1 if ends is None else int((tokens == self.separators[ends]).sum())
                side = remaining // num if num else 0
            if not side or remaining % side:
                return None
            remaining //= side
            shape.insert(0, side)
        return tuple(shape) if remaining == 1 and not rest else None

    def _ends(self, axis: int) -> str | None:
        """Separator at the end of an axis; None for the first axis."""
        return None if axis == 0 else "row" if axis == len(self.grid) - 1 else "frame"

    @property
    def _needed_separators(self) -> list[str]:
        """Separators without which the grid of an item is unknown."""
        ends = (self._ends(axis) for axis, side in enumerate(self.grid) if side is None)
        return [name for name in ends if name is not None]

    def _is_code(self, token: int) -> bool:
        slot, code = divmod(token - self.offset, self.stride or MOST_TOKENS)
        return 0 <= slot < self.num_codebooks and code < self.num_codes

    @property
    def _separator_names(self) -> dict[str, str]:
        return {name: f"<|{name}|>" for name in self.separators}

    def _code_name(self, slot: object, code: object) -> str:
        return f"<|code_{slot}_{code}|>" if self.num_codebooks > 1 and self.stride else f"<|code_{code}|>"
