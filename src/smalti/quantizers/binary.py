"""Base of quantizers whose codes are the signs of the channels: LFQ and BSQ."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from smalti.core.parts import Quantizer, QuantizerConfig
from smalti.core.results import Quantized
from smalti.nn.symbols import check_codes
from smalti.quantizers.entropies import EntropyPenalty
from smalti.quantizers.layout import Layout
from smalti.quantizers.signs import MOST_BITS, sign_codes, signs, signs_of_codes
from smalti.quantizers.straight_through import straight_through
from smalti.quantizers.usage import batch_usage


class BinaryConfig(QuantizerConfig):
    """Settings of a `BinaryQuantizer`.

    Attributes:
        bits: L, bits of each code, of 2^L codes.
        num_codebooks: G, codes at each position.
        commitment_weight: beta.
        entropy_weight: final weight of the entropy terms.
        entropy_start: multiple of the entropy weight at the first step.
        entropy_anneal_steps: steps until the entropy weight is the final one.
        temperature: of the soft assignment.
        group_bits: number of bits up to which the entropy of the batch is exact; more bits are split into
            groups of about equal size.
    """

    bits: int = Field(default=10, ge=1, le=MOST_BITS)
    num_codebooks: int = Field(default=1, ge=1)
    commitment_weight: float = Field(default=0.25, ge=0)
    entropy_weight: float = Field(default=0.1, ge=0)
    entropy_start: float = Field(default=3.0, ge=0)
    entropy_anneal_steps: int = Field(default=2000, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    group_bits: int = Field(default=12, ge=1, le=18)


class BinaryQuantizer(Quantizer):
    """Replace each channel by r or -r, by its sign; the signs of L channels are the bits of a code.

        q = r sign(z),  code = sum_i 2^i [z_i > 0],  u = a projection of z
        p(c|u) = softmax over c in {-r, r}^L of -|u - c|^2 / T
        loss = beta |u - sg[q]|^2 + w_t (E[H(p)] - H(E[p]))

    p factorises into bits of probability sigmoid(4 r u_i / T), from which the entropies are computed without
    enumerating codes (see `smalti.quantizers.entropies`).

    Args:
        config: the settings.
        radius: r.
        channel_last: latents are `(B, *grid, D)` and codes `(B, *grid, G)`, instead of `(B, D, *grid)` and
            `(B, G, *grid)`.
    """

    name: ClassVar[str]
    """Name of the quantizer in tables."""
    config: BinaryConfig

    def __init__(self, config: BinaryConfig, radius: float, channel_last: bool) -> None:
        super().__init__()
        self.config = c = config
        self.dim, self.num_codes, self.num_codebooks = c.num_codebooks * c.bits, 2**c.bits, c.num_codebooks
        self.layout = Layout(self.dim, channel_last)
        self.entropy = EntropyPenalty(c.entropy_weight, c.entropy_start, c.entropy_anneal_steps, c.group_bits)
        self._radius = radius

    @abstractmethod
    def project(self, z: Float[Tensor, "g n d"]) -> Float[Tensor, "g n d"]:
        """Compute u, with the signs of z, which the latents of the decoder replace."""

    @property
    def title(self) -> str:
        """Display name, with the number of bits."""
        codebooks = f"{self.num_codebooks} x " if self.num_codebooks > 1 else ""
        return f"{self.name} of {codebooks}{self.config.bits} bits"

    def forward(self, latents: Float[Tensor, "b ..."]) -> Quantized:
        """Quantize; in training mode the steps of the entropy weight are counted.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        z = self.layout.tokens(latents, self.num_codebooks)
        # Signs of z, not of u, which underflow could change.
        q, indices = signs(z.detach(), self._radius), sign_codes(z.detach())
        u = self.project(z)
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
        """Decode codes to latents, each channel -r or r.

        Raises:
            InputError: if a code is out of range, or the number of codebooks is wrong.
        """
        first = self.layout.channels_first(codes)
        check_codes(first, self.num_codebooks, self.num_codes)
        q = signs_of_codes(first.movedim(1, 0).flatten(1), self.config.bits, self._radius)
        return self.layout.latents(q, self.layout.places(codes))
