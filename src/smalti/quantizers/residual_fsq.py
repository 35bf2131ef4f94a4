"""Residual finite scalar quantization: each stage quantizes the previous residual on a finer scale."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.parts import QUANTIZERS, Quantizer, QuantizerConfig
from smalti.core.results import Quantized
from smalti.core.validation import checked_settings
from smalti.nn.symbols import check_codes
from smalti.quantizers.dropout import check_stages, stages_kept
from smalti.quantizers.layout import Layout
from smalti.quantizers.levels import as_levels, num_combinations, place_values, set_values
from smalti.quantizers.straight_through import straight_through
from smalti.quantizers.usage import batch_usage

MOST_CELLS = 1 << 23
"""Values of a channel over all stages that float32 can tell apart."""


@QUANTIZERS.register
class ResidualFSQConfig(QuantizerConfig):
    """Settings of a `ResidualFSQ`.

    Attributes:
        levels: number of values of each channel in a stage, from 2 to 1,000.
        num_quantizers: number of stages, and of codes at each position.
        quantizer_dropout: share of the items of a training batch that are decoded from the first n stages
            only, with n uniform from 1 to the number of stages.
    """

    kind: Literal["residual_fsq"] = "residual_fsq"
    levels: tuple[Annotated[int, Field(ge=2, le=1000)], ...] = Field(
        default=(8, 5, 5, 5), min_length=1, max_length=1000
    )
    num_quantizers: int = Field(default=4, ge=1)
    quantizer_dropout: float = Field(default=0.0, ge=0, le=1)

    def build(self) -> ResidualFSQ:
        """Build the quantizer, for latents with channels first."""
        return ResidualFSQ(self.levels, self.num_quantizers, self.quantizer_dropout)


@final
class ResidualFSQ(Quantizer):
    """Stage i rounds the residual r_i of each channel to one of L levels on a scale of L^-(i-1).

        r_1 = L / (L - 1) tanh(z (L - 1) / L),  r_(i+1) = r_i - q_i
        q_i = nearest to r_i of L^-(i-1) (2 d_i / (L - 1) - 1),  d_i = 0, ..., L - 1
        z_q = q_1 + ... + q_N,  code_i = sum over channels c of d_ic L_1 ... L_(c-1)

    The rule of the package vector-quantize-pytorch 1.32; it has no paper of its own. With the bound
    L / (L - 1), the residual of every level has the same range, so the N stages divide the range of a channel
    into L^N cells of equal width, and d_1 ... d_N are the digits of the cell in base L. That is how they are
    computed: one rounding for all stages.

    The quantizer has no parameters and no loss; the gradient passes straight through the rounding, so it is
    that of r_1. All computations are in float32, also under autocast, and codes are int64. A NaN channel gets
    level 0 in the codes and stays NaN in the latents, where it stops the training.

    Dropout affects only the latents of `forward` in training. The first n codes of a position are those of
    the first n stages.

    Args:
        levels: L, number of values of each channel in a stage, from 2 to 1,000, one entry per channel.
        num_quantizers: N, number of stages, and of codes at each position.
        quantizer_dropout: share of the items of a training batch that are decoded from the first n stages
            only, with n uniform from 1 to the number of stages.
        channel_last: latents are `(B, *grid, D)` and codes `(B, *grid, N)`, instead of `(B, D, *grid)` and
            `(B, N, *grid)`.

    Raises:
        InputError: for a setting of another type or out of range, if the number of codes of a stage exceeds
            int64, or if the stages exceed the precision of float32.
    """

    config: ResidualFSQConfig
    _levels: Tensor
    _bases: Tensor

    def __init__(
        self,
        levels: Sequence[int] = (8, 5, 5, 5),
        num_quantizers: int = 4,
        quantizer_dropout: float = 0.0,
        channel_last: bool = False,
    ) -> None:
        super().__init__()
        self.config = checked_settings(
            ResidualFSQConfig,
            levels=as_levels(levels),
            num_quantizers=num_quantizers,
            quantizer_dropout=quantizer_dropout,
        )
        levels, num_quantizers = self.config.levels, self.config.num_quantizers
        self.num_codebooks, self.num_codes, self.dim = num_quantizers, num_combinations(levels), len(levels)
        most = int(math.log2(MOST_CELLS) / math.log2(max(levels)))
        if num_quantizers > most:
            raise InputError(
                f"expected stages that float32 can represent, at most {most} of {max(levels)} levels, "
                f"received {num_quantizers}: use fewer stages or levels"
            )
        self.layout = Layout(self.dim, channel_last)
        # Derived from the settings, so they are not saved.
        self.register_buffer("_levels", torch.tensor(levels), persistent=False)
        self.register_buffer("_bases", torch.tensor(place_values(levels)), persistent=False)

    @property
    def title(self) -> str:
        """Display name, with the stages and the levels."""
        return f"residual FSQ of {self.num_codebooks} stages, {'x'.join(map(str, self.config.levels))} levels"

    def forward(self, latents: Float[Tensor, "b ..."]) -> Quantized:
        """Quantize; training differs from evaluation by the dropout of stages only.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        bounded = self._bounded(latents)
        places = self.layout.places(latents)
        cells = self._cells(bounded)
        indices = self._indices(cells)
        dropped = None
        if self.training and self.config.quantizer_dropout:
            kept = stages_kept(latents, self.num_codebooks, self.config.quantizer_dropout)
            # Expand from one number per item to all its positions.
            dropped = (self.num_codebooks - kept).repeat_interleave(math.prod(places[1:])).unsqueeze(1)
        z_q = torch.where(bounded.isnan(), bounded, self._centres(cells, dropped))
        return Quantized(
            latents=self.layout.latents(straight_through(bounded, z_q), places),
            codes=self.layout.codes(indices, places),
            loss=bounded.new_zeros(()),
            terms={"batch_usage": batch_usage(indices, self.num_codes)},
        )

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "b ..."]) -> Int64[Tensor, "b ..."]:
        """Encode latents to codes, in the order of the stages.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        indices = self._indices(self._cells(self._bounded(latents)))
        return self.layout.codes(indices, self.layout.places(latents))

    def decode(self, codes: Int64[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Decode codes to latents: the sum over stages.

        Raises:
            InputError: if a code is out of range, or the number of stages is wrong.
        """
        first = self.layout.channels_first(codes)
        check_codes(first, self.num_codebooks, self.num_codes)
        digits = first.movedim(1, 0).flatten(1).unsqueeze(2) // self._bases % self._levels
        cells = torch.zeros_like(digits[:1])
        for digit in digits:
            cells = cells * self._levels + digit
        return self.layout.latents(self._centres(cells), self.layout.places(codes))

    def first(self, num: Any) -> ResidualFSQ:
        """Return a copy of the first stages.

        Raises:
            InputError: for a number below 1 or above that of the stages.
        """
        check_stages(num, self.num_codebooks)
        made = copy.deepcopy(self)
        made.config, made.num_codebooks = self.config.changed({"num_quantizers": num}), num
        return made

    def _apply(self, *arguments: Any, **named: Any) -> ResidualFSQ:
        super()._apply(*arguments, **named)
        set_values(self._levels, self.config.levels)
        set_values(self._bases, place_values(self.config.levels))
        return self

    def _bounded(self, latents: Float[Tensor, "b ..."]) -> Float[Tensor, "1 n d"]:
        """Bound each channel to [-L / (L - 1), L / (L - 1)]."""
        z = self.layout.tokens(latents)
        edge = self._edge()
        return torch.tanh(z / edge) * edge

    def _cells(self, bounded: Float[Tensor, "1 n d"]) -> Int64[Tensor, "1 n d"]:
        """Compute the number of the cell of each channel, from 0 to L^N - 1."""
        num_cells = self._levels**self.num_codebooks
        cells = ((bounded.detach() / self._edge() + 1) * 0.5 * num_cells).floor()
        cells = torch.where(cells.isnan(), 0, cells).to(torch.int64)
        return torch.minimum(cells.clamp_min(0), num_cells - 1)

    def _indices(self, cells: Int64[Tensor, "1 n d"]) -> Int64[Tensor, "g n"]:
        """Combine the digits of all channels into the code of each stage."""
        indices = []
        for _ in range(self.num_codebooks):
            indices.append((cells % self._levels * self._bases).sum(2))
            cells = cells // self._levels
        return torch.cat(indices[::-1])

    def _centres(
        self, cells: Int64[Tensor, "1 n d"], dropped: Tensor | None = None
    ) -> Float[Tensor, "1 n d"]:
        """Compute the centre of each cell, or of the larger one that remains without the last stages."""
        num_cells = self._levels**self.num_codebooks
        if dropped is not None:
            size = self._levels**dropped
            cells, num_cells = cells // size, num_cells // size
        # Exact until the division: numbers of cells are below 2^23.
        return ((cells.float() + 0.5) * 2 / num_cells - 1) * self._edge()

    def _edge(self) -> Float[Tensor, " d"]:
        """Largest value of each channel, L / (L - 1)."""
        return self._levels.float() / (self._levels - 1)
