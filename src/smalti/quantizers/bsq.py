"""Binary spherical quantization (Zhao et al. 2024, arXiv 2406.07548)."""

from __future__ import annotations

from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from smalti.core.parts import QUANTIZERS
from smalti.core.validation import checked_settings
from smalti.quantizers.binary import BinaryConfig, BinaryQuantizer
from smalti.quantizers.signs import check_bits

LEAST_NORM = 1e-4
"""Norm below which a vector is divided by this number, so that gradients are finite, also in float16."""


@QUANTIZERS.register
class BSQConfig(BinaryConfig):
    """Settings of a `BSQ`; see `BinaryConfig`."""

    kind: Literal["bsq"] = "bsq"
    commitment_weight: float = Field(default=0.0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    group_bits: int = Field(default=9, ge=1, le=18)

    def build(self) -> BSQ:
        """Build the quantizer, for latents with channels first."""
        return BSQ(**self.model_dump(exclude={"kind"}))


@final
class BSQ(BinaryQuantizer):
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
        InputError: for a setting of another type or out of range, or if the number of codes exceeds int64.
    """

    name = "BSQ"

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
        check_bits(bits)
        config = checked_settings(
            BSQConfig,
            bits=bits,
            num_codebooks=num_codebooks,
            commitment_weight=commitment_weight,
            entropy_weight=entropy_weight,
            entropy_start=entropy_start,
            entropy_anneal_steps=entropy_anneal_steps,
            temperature=temperature,
            group_bits=group_bits,
        )
        super().__init__(config, radius=config.bits**-0.5, channel_last=channel_last)

    def project(self, z: Float[Tensor, "g n d"]) -> Float[Tensor, "g n d"]:
        """Project the vectors to the unit sphere."""
        return normalize(z, dim=2, eps=LEAST_NORM)
