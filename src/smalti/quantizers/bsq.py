"""Binary spherical quantization (Zhao et al. 2024, arXiv 2406.07548)."""

from __future__ import annotations

from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from smalti.core.parts import QUANTIZERS, Quantizer, QuantizerConfig
from smalti.core.results import Quantized
from smalti.nn.symbols import check_codes
from smalti.quantizers.entropies import EntropyPenalty
from smalti.quantizers.layout import Layout
from smalti.quantizers.signs import MOST_BITS, check_bits, sign_codes, signs, signs_of_codes
from smalti.quantizers.straight_through import straight_through
from smalti.quantizers.usage import batch_usage

LEAST_NORM = 1e-4
"""Norm below which a vector is divided by this number, so that gradients are finite, also in float16."""


@QUANTIZERS.register
class BSQConfig(QuantizerConfig):
    """Settings of a `BSQ`.

    Attributes:
        bits: L, bits of each code, of 2^L codes.
        num_codebooks: G, codes at each position.
        commitment_weight: beta.
        entropy_weight: final weight of the entropy terms.
        entropy_start: multiple of the entropy weight at the first step.
        entropy_anneal_steps: steps until the entropy weight is the final one.
        temperature: tau of the soft assignment.
        group_bits: number of bits up to which the entropy of the batch is exact; more bits are split into
            groups of about equal size.
    """

    kind: Literal["bsq"] = "bsq"
    bits: int = Field(default=10, ge=1, le=MOST_BITS)
    num_codebooks: int = Field(default=1, ge=1)
    commitment_weight: float = Field(default=0.0, ge=0)
    entropy_weight: float = Field(default=0.1, ge=0)
    entropy_start: float = Field(default=3.0, ge=0)
    entropy_anneal_steps: int = Field(default=2000, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    group_bits: int = Field(default=9, ge=1, le=18)

    def build(self) -> BSQ:
        """Build the quantizer, for latents with channels first."""
        return BSQ(**self.model_dump(exclude={"kind"}))


@final
class BSQ(Quantizer):
    """Project each vector to the unit sphere and replace it by the nearest corner of the inscribed cube.

        u = z / |z|,  q = sign(u) / sqrt(L),  code = sum_i 2^i [z_i > 0]
        p(c|u) = softmax over the corners c of -|u - c|^2 / tau
        loss = beta |u - sg[q]|^2 + w_t (E[H(p)] - H(E[p]))

    Section 4 of the paper, with the settings of the authors' published code. p factorises into bits of
    probability sigmoid(4 u_i / (sqrt(L) tau)), so the entropies need no enumeration of the codes, and memory
    is independent of 2^L. E[H(p)] is exact. H(E[p]), over the tokens of all ranks, is exact for up to
    `group_bits` bits, and beyond that the sum over groups of bits, an upper bound (see
    `smalti.quantizers.entropies`). The weight w_t falls from `entropy_start` times `entropy_weight` to
    `entropy_weight`.

    All computations are in float32, also under autocast, and codes are int64. The sign of 0 is negative. A
    NaN channel gets the bit 0 in the code and stays NaN in the latents, where it stops the training.

    Args:
        bits: L, bits of each code, up to 63.
        num_codebooks: G, codes at each position; the latents have G L channels, and each part of L is
            projected to a sphere of its own.
        commitment_weight: beta.
        entropy_weight: final weight of the entropy terms, per nat.
        entropy_start: multiple of the entropy weight at the first step.
        entropy_anneal_steps: steps until the entropy weight is the final one.
        temperature: tau of the soft assignment.
        group_bits: number of bits up to which H(E[p]) is exact, up to 18; its time grows by 2^group_bits.
        channel_last: latents are `(B, *grid, D)` and codes `(B, *grid, G)`, instead of `(B, D, *grid)` and
            `(B, G, *grid)`.

    Raises:
        InputError: if the number of codes exceeds int64.
        pydantic.ValidationError: for a setting out of range.
    """

    config: BSQConfig

    def __init__(
        self,
        bits: int = 10,
        num_codebooks: int = 1,
        commitment_weight: float = 0.0,
        entropy_weight: float = 0.1,
        entropy_start: float = 3.0,
        entropy_anneal_steps: int = 2000,
        temperature: float = 1.0,
        group_bits: int = 9,
        channel_last: bool = False,
    ) -> None:
        super().__init__()
        check_bits(bits)
        self.config = BSQConfig(
            bits=bits,
            num_codebooks=num_codebooks,
            commitment_weight=commitment_weight,
            entropy_weight=entropy_weight,
            entropy_start=entropy_start,
            entropy_anneal_steps=entropy_anneal_steps,
            temperature=temperature,
            group_bits=group_bits,
        )
        c = self.config
        self.dim, self.num_codes, self.num_codebooks = c.num_codebooks * c.bits, 2**c.bits, c.num_codebooks
        self.layout = Layout(self.dim, channel_last)
        self.entropy = EntropyPenalty(c.entropy_weight, c.entropy_start, c.entropy_anneal_steps, c.group_bits)
        self._radius = c.bits**-0.5

    @property
    def title(self) -> str:
        """Display name, with the number of bits."""
        codebooks = f"{self.num_codebooks} x " if self.num_codebooks > 1 else ""
        return f"BSQ of {codebooks}{self.config.bits} bits"

    def forward(self, latents: Float[Tensor, "b ..."]) -> Quantized:
        """Quantize; in training mode the steps of the entropy weight are counted.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        z = self.layout.tokens(latents, self.num_codebooks)
        # Signs of z, not of u, which underflow could change.
        q, indices = signs(z.detach(), self._radius), sign_codes(z.detach())
        u = normalize(z, dim=2, eps=LEAST_NORM)
        commitment = mse_loss(u, q)
        penalty, terms = self.entropy(u * (4 * self._radius / self.config.temperature))
        places = self.layout.places(latents)
        return Quantized(
            latents=self.layout.latents(straight_through(u, q), places),
            codes=self.layout.codes(indices, places),
            loss=self.config.commitment_weight * commitment + penalty,
            terms={
                "commitment": commitment.detach(),
                **terms,
                "batch_usage": batch_usage(indices, self.num_codes),
            },
        )

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "b ..."]) -> Int64[Tensor, "b ..."]:
        """Encode latents to codes.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        z = self.layout.tokens(latents, self.num_codebooks)
        return self.layout.codes(sign_codes(z), self.layout.places(latents))

    def decode(self, codes: Int64[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Decode codes to latents, unit vectors of each codebook.

        Raises:
            InputError: if a code is out of range, or the number of codebooks is wrong.
        """
        first = self.layout.channels_first(codes)
        check_codes(first, self.num_codebooks, self.num_codes)
        q = signs_of_codes(first.movedim(1, 0).flatten(1), self.config.bits, self._radius)
        return self.layout.latents(q, self.layout.places(codes))
