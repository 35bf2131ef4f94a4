"""Vector quantization with the straight-through estimator (van den Oord et al. 2017, section 3)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.parts import Quantizer
from smalti.core.results import Quantized
from smalti.nn.symbols import check_codes
from smalti.quantizers.codebooks import (
    Codebook,
    FaithfulCodebook,
    FaithfulCodebookConfig,
    FrozenCodebook,
    FrozenCodebookConfig,
    RobustCodebook,
    RobustCodebookConfig,
    search,
)

CODEBOOKS: dict[str, type[FaithfulCodebook] | type[RobustCodebook] | type[FrozenCodebook]] = {
    "faithful": FaithfulCodebook,
    "frozen": FrozenCodebook,
    "robust": RobustCodebook,
}


class VectorQuantizerConfig(Configuration):
    """Settings of a `VectorQuantizer`.

    Attributes:
        num_codebooks: G, codes at each position (10 in the paper's CIFAR-10 latents 8x8x10).
        num_codes: K, codes in each codebook.
        code_dim: D, dimension of a code.
        commitment_weight: beta, 0.25 everywhere in the paper.
        codebook: how the codebook learns.
    """

    kind: Literal["vq"] = "vq"
    num_codebooks: int = Field(default=1, ge=1)
    num_codes: int = Field(default=512, ge=2)
    code_dim: int = Field(default=64, ge=1)
    commitment_weight: float = Field(default=0.25, ge=0)
    codebook: Annotated[
        RobustCodebookConfig | FaithfulCodebookConfig | FrozenCodebookConfig, Field(discriminator="mode")
    ] = RobustCodebookConfig()

    @classmethod
    def tiny(cls) -> VectorQuantizerConfig:
        """The smallest that still has every part."""
        return cls(num_codebooks=2, num_codes=16, code_dim=4)


@final
class _StraightThrough(torch.autograd.Function):
    """The code's value with the latent's gradient, and no arithmetic; not to be changed in place."""

    @staticmethod
    def forward(z_e: Tensor, z_q: Tensor) -> Tensor:
        return z_q.view_as(z_q)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


@final
class VectorQuantizer(Quantizer):
    """Each position's latents, cut into G vectors, are replaced by the nearest code of their codebook.

        loss = |sg[z_e] - e|^2 + beta |z_e - sg[e]|^2

    both averaged over all elements; with a robust codebook the first term is replaced by moving averages.
    Works in float32, also under autocast: the search is the only product, and sees to that itself.

    Args:
        config: sizes, beta and the codebook's rule.
    """

    def __init__(self, config: VectorQuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.num_codebooks, self.num_codes = config.num_codebooks, config.num_codes
        self.dim = config.num_codebooks * config.code_dim
        build = CODEBOOKS[config.codebook.mode]
        self.codebook: Codebook = build(
            config.codebook,  # pyright: ignore[reportArgumentType]  the key and the class belong together
            config.num_codebooks,
            config.num_codes,
            config.code_dim,
        )

    def forward(self, latents: Float[Tensor, "b d *grid"]) -> Quantized:
        """Quantize latents `(B, G*D, *grid)`; in training mode the codebook also learns from them."""
        z_e = self._tokens(latents.float())
        if self.training:
            self.codebook.prepare(z_e.detach())
        indices = search(z_e.detach(), self.codebook.codes)
        z_q = self.codebook.look_up(indices)
        commitment = mse_loss(z_e, z_q.detach())
        terms = {"commitment": commitment.detach(), "batch_usage": self._usage(indices)}
        loss = self.config.commitment_weight * commitment
        codebook_loss = self.codebook.loss(z_e, z_q)
        if codebook_loss is not None:
            terms["codebook"] = codebook_loss.detach()
            loss = loss + codebook_loss
        if self.training:
            self.codebook.learn(z_e.detach(), indices)
        return Quantized(
            latents=self._untokens(_StraightThrough.apply(z_e, z_q.detach()), latents),
            codes=self._codes(indices, latents),
            loss=loss,
            terms=terms,
        )

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "b d *grid"]) -> Int64[Tensor, "b g *grid"]:
        """Codes of latents; nothing learns."""
        return self._codes(search(self._tokens(latents.float()), self.codebook.codes), latents)

    @torch.no_grad()
    def neighbours(self, latents: Float[Tensor, "b d *grid"], num: int) -> Int64[Tensor, "num b g *grid"]:
        """The codes of each place that follow the nearest in distance, the nearest of them first.

        Raises:
            InputError: when there are not so many.
        """
        if not 0 < num < self.num_codes:
            raise InputError(
                f"expected from 1 to {self.num_codes - 1} neighbours of a code, received {num}: ask for fewer"
            )
        tokens = self._tokens(latents.float())
        nearest = search(tokens, self.codebook.codes)
        distances = torch.cdist(tokens, self.codebook.codes.detach())
        distances.scatter_(2, nearest.unsqueeze(2), torch.inf)
        order = distances.topk(num, dim=2, largest=False).indices
        return torch.stack([self._codes(indices, latents) for indices in order.unbind(2)])

    def decode(self, codes: Int64[Tensor, "b g *grid"]) -> Float[Tensor, "b d *grid"]:
        """Latents of codes.

        Raises:
            InputError: for codes out of range or with another number of codebooks.
        """
        check_codes(codes, self.num_codebooks, self.num_codes)
        indices = codes.movedim(1, 0).flatten(1)
        return self._untokens(self.codebook.look_up(indices), codes)

    def _tokens(self, latents: Float[Tensor, "b gd *grid"]) -> Float[Tensor, "g n d"]:
        """`(B, G*D, *grid)` -> `(G, B*positions, D)`."""
        split = latents.unflatten(1, (self.num_codebooks, self.config.code_dim))
        return split.movedim((1, 2), (0, -1)).flatten(1, -2)

    def _untokens(self, tokens: Float[Tensor, "g n d"], like: Tensor) -> Float[Tensor, "b gd *grid"]:
        """The inverse of `_tokens`; `like` is `(B, any, *grid)`."""
        split = tokens.unflatten(1, (like.shape[0], *like.shape[2:]))
        return split.movedim((0, -1), (1, 2)).flatten(1, 2)

    def _usage(self, indices: Int64[Tensor, "g n"]) -> Float[Tensor, ""]:
        """Share of the codes that occur in this batch (over a split it is higher)."""
        seen = torch.zeros(self.num_codebooks, self.num_codes, device=indices.device)
        return seen.scatter_(1, indices, 1.0).mean()

    def _codes(self, indices: Int64[Tensor, "g n"], like: Tensor) -> Int64[Tensor, "b g *grid"]:
        return indices.unflatten(1, (like.shape[0], *like.shape[2:])).movedim(0, 1).contiguous()
