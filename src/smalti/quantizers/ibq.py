"""Index backpropagation quantization (Shi et al. 2024, arXiv 2412.02692)."""

from __future__ import annotations

from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss

from smalti.core.parts import QUANTIZERS, Quantizer, QuantizerConfig
from smalti.core.results import Quantized
from smalti.core.validation import checked_settings
from smalti.nn.symbols import check_codes
from smalti.quantizers.layout import Layout
from smalti.quantizers.soft_indices import largest_products, select_softly
from smalti.quantizers.undefined import with_undefined
from smalti.quantizers.usage import batch_usage


@QUANTIZERS.register
class IBQConfig(QuantizerConfig):
    """Settings of an `IBQ`.

    Attributes:
        dim: D, channels of the latents and dimension of a code.
        num_codes: K.
        commitment_weight: beta.
        entropy_weight: weight of the entropy loss; 0 omits it.
        entropy_temperature: T, of the distributions of the entropy loss.
    """

    kind: Literal["ibq"] = "ibq"
    dim: int = Field(default=64, ge=1)
    num_codes: int = Field(default=512, ge=2)
    commitment_weight: float = Field(default=0.25, ge=0)
    entropy_weight: float = Field(default=0.05, ge=0)
    entropy_temperature: float = Field(default=0.01, gt=0)

    def build(self) -> IBQ:
        """Build the untrained quantizer, for latents with channels first."""
        return IBQ(
            self.dim,
            self.num_codes,
            self.commitment_weight,
            self.entropy_weight,
            self.entropy_temperature,
        )


@final
class IBQ(Quantizer):
    """Chooses the code with the largest product; the gradient passes through the softmax to all codes.

        p = softmax(z E^T),  onehot = hard - sg[p] + p,  z_q = onehot E,  e = hard E
        loss = |z_q - z|^2 + |sg[z] - e|^2 + beta |z - sg[e]|^2 + w (mean H(q) - H(mean q))
        q = softmax(z E^T / T)

    Section 3.2 of the paper, and its entropy loss, in nats. The authors' code has beta before the second
    term instead of the third. The latents are exactly the codes, which are drawn from N(0, I) at first. Codes
    are the float64 argmax, and all computations are in float32, also under autocast; the mean of q is over
    all ranks. A vector that is not finite has no largest product: its code is 0, and its latents are NaN.
    Training and evaluation behave the same.

    Products of tokens and codes are computed in chunks, also in the backward pass, in at most 64 MiB on a CPU
    and 512 MiB on a GPU for any number of tokens and codes.

    Args:
        dim: D, channels of the latents and dimension of a code.
        num_codes: K.
        commitment_weight: beta.
        entropy_weight: w; 0 omits the entropy loss.
        entropy_temperature: T.
        channel_last: latents are `(B, *grid, D)` and codes `(B, *grid, 1)`, instead of `(B, D, *grid)` and
            `(B, 1, *grid)`.

    Raises:
        InputError: for a setting of another type or out of range.
    """

    config: IBQConfig

    def __init__(
        self,
        dim: int = 64,
        num_codes: int = 512,
        commitment_weight: float = 0.25,
        entropy_weight: float = 0.05,
        entropy_temperature: float = 0.01,
        channel_last: bool = False,
    ) -> None:
        super().__init__()
        self.config = checked_settings(
            IBQConfig,
            dim=dim,
            num_codes=num_codes,
            commitment_weight=commitment_weight,
            entropy_weight=entropy_weight,
            entropy_temperature=entropy_temperature,
        )
        dim, num_codes = self.config.dim, self.config.num_codes
        self.dim, self.num_codes, self.num_codebooks = dim, num_codes, 1
        self.layout = Layout(dim, channel_last)
        # As the authors' code. Shorter codes have smaller products, whose softmax tells them apart too late.
        self.codes = nn.Parameter(torch.randn(num_codes, dim))

    @property
    def title(self) -> str:
        """Display name."""
        return "IBQ"

    def forward(self, latents: Float[Tensor, "b ..."]) -> Quantized:
        """Quantize; training and evaluation behave the same.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        z = self.layout.tokens(latents)[0].contiguous()
        config, places = self.config, self.layout.places(latents)
        # A module may have been cast to half precision.
        codes = self.codes.float()
        has_entropies = config.entropy_weight > 0
        z_q, indices, sample_entropy, batch_entropy = select_softly(
            z, codes, config.entropy_temperature, has_entropies
        )
        z_q = with_undefined(z_q, z)
        e = embedding(indices, codes)
        terms = {
            "index": mse_loss(z_q, z),
            "codebook": mse_loss(e, z.detach()),
            "commitment": mse_loss(z, e.detach()),
        }
        loss = terms["index"] + terms["codebook"] + config.commitment_weight * terms["commitment"]
        if has_entropies:
            loss = loss + config.entropy_weight * (sample_entropy - batch_entropy)
            terms |= {"sample_entropy": sample_entropy, "batch_entropy": batch_entropy}
        terms["batch_usage"] = batch_usage(indices.unsqueeze(0), self.num_codes)
        return Quantized(
            latents=self.layout.latents(z_q.unsqueeze(0), places),
            codes=self.layout.codes(indices.unsqueeze(0), places),
            loss=loss,
            terms={name: term.detach() for name, term in terms.items()},
        )

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "b ..."]) -> Int64[Tensor, "b ..."]:
        """Encode latents to codes.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        z = self.layout.tokens(latents)[0].contiguous()
        indices = largest_products(z, self.codes.float()).unsqueeze(0)
        return self.layout.codes(indices, self.layout.places(latents))

    def decode(self, codes: Int64[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Decode codes to latents.

        Raises:
            InputError: if a code is out of range, or the number of codebooks is wrong.
        """
        first = self.layout.channels_first(codes)
        check_codes(first, self.num_codebooks, self.num_codes)
        z_q = embedding(first.movedim(1, 0).flatten(1), self.codes.float())
        return self.layout.latents(z_q, self.layout.places(codes))
