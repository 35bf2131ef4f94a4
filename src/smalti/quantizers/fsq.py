"""Finite scalar quantization (Mentzer et al. 2023, arXiv 2309.15505), and iFSQ (2026, arXiv 2601.17124)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from smalti.core.parts import QUANTIZERS, Quantizer, QuantizerConfig
from smalti.core.results import Quantized
from smalti.core.validation import checked_settings
from smalti.nn.symbols import check_codes
from smalti.quantizers.layout import Layout
from smalti.quantizers.levels import as_levels, num_combinations, place_values, set_values
from smalti.quantizers.straight_through import straight_through
from smalti.quantizers.usage import batch_usage

MARGIN = 1e-3
"""Relative margin by which the bound exceeds the outermost level, so that tanh need not saturate there."""

SLOPES = {"tanh": 1.0, "sigmoid": 0.8}
"""Slope c of the bound tanh(c x); 2 sigmoid(1.6 x) - 1 = tanh(0.8 x)."""
MOST_EXACT = 1 << 24
"""Codes whose numbers float32 holds exactly."""


@QUANTIZERS.register
class FSQConfig(QuantizerConfig):
    """Settings of an `FSQ`.

    Attributes:
        levels: number of values of each channel, from 2 to 1,000 (above that, the bound's margin would reach
            another level). The paper's choices: 8,8,8 for about 512 codes, 8,5,5,5 for 1,000, 8,8,8,6,5 for
            15,360 and 8,8,8,5,5,5 for 64,000.
        bound: "tanh", or "sigmoid" for iFSQ.
    """

    kind: Literal["fsq"] = "fsq"
    levels: tuple[Annotated[int, Field(ge=2, le=1000)], ...] = Field(
        default=(8, 5, 5, 5), min_length=1, max_length=1000
    )
    bound: Literal["tanh", "sigmoid"] = "tanh"

    def build(self) -> FSQ:
        """Build the quantizer, for latents with channels first."""
        return FSQ(self.levels, self.bound)


@final
class FSQ(Quantizer):
    """Bound each channel by tanh and round it to one of its levels; the codebook is the grid of all levels.

        h = (L - 1)(1 + 1e-3) / 2,  o = 1/2 if L is even else 0,  s = atanh(o / h)
        q = round(tanh(z + s) h - o) / floor(L / 2)
        code = sum_i (q_i floor(L_i / 2) + floor(L_i / 2)) L_1 ... L_(i-1)

    Section 3.1 of the paper and the authors' published code. The quantizer has no parameters and no loss; the
    gradient passes straight through the rounding, so it is that of the bound. All computations are in
    float32, also under autocast, and codes are int64. A NaN channel gets level 0 in the code and stays NaN in
    the latents, where it stops the training.

    iFSQ (arXiv 2601.17124) replaces tanh(x) by 2 sigmoid(1.6 x) - 1, which maps normally distributed latents
    almost uniformly to (-1, 1). With an odd number of levels, the inner ones are then used about evenly, and
    the outer two, which have half a cell each, half as often.

    Decoded latents are not fixed points: `encode(decode(codes))` may differ from the codes.

    Args:
        levels: number of values of each channel, from 2 to 1,000, one entry per channel.
        bound: function that bounds the channels, "tanh" (FSQ) or "sigmoid" (iFSQ).
        channel_last: latents are `(B, *grid, D)` and codes `(B, *grid, 1)`, instead of `(B, D, *grid)` and
            `(B, 1, *grid)`.

    Raises:
        InputError: for levels that are not a sequence or out of range, another bound, or if the number of
            codes exceeds int64.
    """

    config: FSQConfig
    _same: tuple[float, float, int] | None
    _levels: Tensor
    _bases: Tensor

    def __init__(
        self,
        levels: Sequence[int] = (8, 5, 5, 5),
        bound: Literal["tanh", "sigmoid"] = "tanh",
        channel_last: bool = False,
    ) -> None:
        super().__init__()
        self.config = checked_settings(FSQConfig, levels=as_levels(levels), bound=bound)
        levels = self.config.levels
        self.num_codebooks, self.num_codes, self.dim = 1, num_combinations(levels), len(levels)
        self.layout = Layout(self.dim, channel_last)
        first = levels[0]
        half_range = (first - 1) * (1 + MARGIN) / 2
        is_same = all(level == first for level in levels)
        self._same = (half_range, 0.5 * (first % 2 == 0), first // 2) if is_same else None
        # Derived from the settings, so they are not saved.
        self.register_buffer("_levels", torch.tensor(levels), persistent=False)
        self.register_buffer("_bases", torch.tensor(place_values(levels)), persistent=False)

    @property
    def title(self) -> str:
        """Display name, with the levels."""
        name = "iFSQ" if self.config.bound == "sigmoid" else "FSQ"
        return f"{name} of {'x'.join(map(str, self.config.levels))} levels"

    def forward(self, latents: Float[Tensor, "b ..."]) -> Quantized:
        """Quantize; training and evaluation behave the same.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        squashed = self._squashed(latents)
        rounded = self._rounded(squashed)
        indices = self._indices(rounded)
        h, _, half = self._range()
        places = self.layout.places(latents)
        # As decoded, bit for bit; the gradient is that of the bound h tanh(...) / half.
        z_q = straight_through(squashed, rounded / half, h / half)
        return Quantized(
            latents=self.layout.latents(z_q, places),
            codes=self.layout.codes(indices, places),
            loss=rounded.new_zeros(()),
            terms={"batch_usage": batch_usage(indices, self.num_codes)},
        )

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "b ..."]) -> Int64[Tensor, "b ..."]:
        """Encode latents to codes.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        indices = self._indices(self._rounded(self._squashed(latents)))
        return self.layout.codes(indices, self.layout.places(latents))

    def decode(self, codes: Int64[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Decode codes to latents, each channel in [-1, 1].

        Raises:
            InputError: if a code is out of range, or the number of codebooks is wrong.
        """
        first = self.layout.channels_first(codes)
        check_codes(first, self.num_codebooks, self.num_codes)
        digits = first.movedim(1, 0).flatten(1).unsqueeze(2) // self._bases % self._levels
        half = self._levels // 2
        return self.layout.latents((digits - half).float() / half, self.layout.places(codes))

    def _apply(self, *arguments: Any, **named: Any) -> FSQ:
        super()._apply(*arguments, **named)
        set_values(self._levels, self.config.levels)
        set_values(self._bases, place_values(self.config.levels))
        return self

    def _range(self) -> tuple[Any, Any, Any]:
        """Compute h, o and floor(L / 2) of each channel; as numbers if they are the same for all channels.

        Operations with numbers are several times as fast as those with a vector for few channels.
        """
        if self._same is not None:
            return self._same
        levels = self._levels
        return (levels - 1).float() * (1 + MARGIN) / 2, (levels % 2 == 0).float() / 2, levels // 2

    def _squashed(self, latents: Float[Tensor, "b ..."]) -> Float[Tensor, "1 n d"]:
        """Map each channel to (-1, 1)."""
        z = self.layout.tokens(latents)
        h, offset, _ = self._range()
        slope = SLOPES[self.config.bound]
        z = z if slope == 1 else slope * z
        if self._same is None:
            z = z + torch.atanh(offset / h)
        elif offset:
            z = z + math.atanh(offset / h)
        return torch.tanh(z)

    @torch.no_grad()
    def _rounded(self, squashed: Float[Tensor, "1 n d"]) -> Float[Tensor, "1 n d"]:
        """Round each channel to its levels, -floor(L / 2) to ceil(L / 2) - 1."""
        h, offset, _ = self._range()
        bounded = squashed * h
        return (bounded - offset if self._same is None or offset else bounded).round()

    @torch.no_grad()
    def _indices(self, rounded: Float[Tensor, "1 n d"]) -> Int64[Tensor, "1 n"]:
        # Operations on whole columns are faster than those with a vector for few channels.
        index = torch.zeros_like(rounded[..., 0])
        if self.num_codes > MOST_EXACT:
            index = index.to(torch.int64)
        for values, level in zip(reversed(rounded.unbind(2)), reversed(self.config.levels), strict=True):
            digits = (values + level // 2).nan_to_num(0.0)
            index = index * level + digits.to(index.dtype)
        return index.to(torch.int64)
