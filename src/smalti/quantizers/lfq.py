"""Lookup-free quantization (Yu et al. 2023, MAGVIT-v2, arXiv 2310.05737)."""

from __future__ import annotations

from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from smalti.core.parts import QUANTIZERS
from smalti.core.validation import checked_settings
from smalti.quantizers.binary import BinaryConfig, BinaryQuantizer
from smalti.quantizers.signs import check_bits


@QUANTIZERS.register
class LFQConfig(BinaryConfig):
    """Settings of an `LFQ`; see `BinaryConfig`."""

    kind: Literal["lfq"] = "lfq"
    commitment_weight: float = Field(default=0.25, ge=0)
    temperature: float = Field(default=0.01, gt=0)
    group_bits: int = Field(default=12, ge=1, le=18)

    def build(self) -> LFQ:
        """Build the quantizer, for latents with channels first."""
        return LFQ(**self.model_dump(exclude={"kind"}))


@final
class LFQ(BinaryQuantizer):
    """Replace each channel by its sign; the signs of L channels are the bits of a code.

        q = sign(z),  code = sum_i 2^i [z_i > 0],  p(c|z) = softmax over c in {-1, 1}^L of 2 z.c / T
        loss = beta |z - sg[q]|^2 + w_t (E[H(p)] - H(E[p]))

    Section 3.1 of the paper. The channels have no codebook: p factorises into bits of probability
    sigmoid(4 z_i / T), from which the entropies are computed without enumerating codes. E[H(p)] is exact.
    H(E[p]), over the tokens of all ranks, is exact for up to `group_bits` bits, and beyond that the sum over
    groups of bits, an upper bound (see `smalti.quantizers.entropies`). The weight w_t falls from
    `entropy_start` times `entropy_weight` to `entropy_weight`.

    All computations are in float32, also under autocast, and codes are int64. The sign of 0 is negative. A
    NaN channel gets the bit 0 in the code and stays NaN in the latents, where it stops the training.

    Args:
        bits: L, bits of each code, up to 63.
        num_codebooks: G, codes at each position; the latents have G L channels.
        commitment_weight: beta.
        entropy_weight: final weight of the entropy terms, per nat.
        entropy_start: multiple of the entropy weight at the first step.
        entropy_anneal_steps: steps until the entropy weight is the final one.
        temperature: T of the soft assignment.
        group_bits: number of bits up to which H(E[p]) is exact, up to 18; its time grows by 2^group_bits.
        channel_last: latents are `(B, *grid, D)` and codes `(B, *grid, G)`, instead of `(B, D, *grid)` and
            `(B, G, *grid)`.

    Raises:
        InputError: for a setting of another type or out of range, or if the number of codes exceeds int64.
    """

    name = "LFQ"

    def __init__(
        self,
        bits: int = 10,
        num_codebooks: int = 1,
        commitment_weight: float = 0.25,
        entropy_weight: float = 0.1,
        entropy_start: float = 3.0,
        entropy_anneal_steps: int = 2000,
        temperature: float = 0.01,
        group_bits: int = 12,
        channel_last: bool = False,
    ) -> None:
        check_bits(bits)
        config = checked_settings(
            LFQConfig,
            bits=bits,
            num_codebooks=num_codebooks,
            commitment_weight=commitment_weight,
            entropy_weight=entropy_weight,
            entropy_start=entropy_start,
            entropy_anneal_steps=entropy_anneal_steps,
            temperature=temperature,
            group_bits=group_bits,
        )
        super().__init__(config, radius=1.0, channel_last=channel_last)

    def project(self, z: Float[Tensor, "g n d"]) -> Float[Tensor, "g n d"]:
        """Return z."""
        return z
