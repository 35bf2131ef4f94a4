"""Vector quantization (van den Oord et al. 2017, section 3)."""

from __future__ import annotations

from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from smalti.core.arguments import check_count
from smalti.core.errors import InputError
from smalti.core.parts import QUANTIZERS, Quantizer, QuantizerConfig
from smalti.core.results import Quantized
from smalti.core.validation import checked_settings
from smalti.nn.symbols import check_codes
from smalti.quantizers.codebooks.base import AnyCodebook, CodebookConfig, codebook_config
from smalti.quantizers.codebooks.ema import EMACodebookConfig
from smalti.quantizers.estimators.base import (
    AnyEstimator,
    GradientEstimatorConfig,
    check_trains,
    estimator_config,
    title_suffix,
)
from smalti.quantizers.estimators.straight_through import StraightThroughConfig
from smalti.quantizers.layout import Layout
from smalti.quantizers.matching import Matching, Normalize
from smalti.quantizers.undefined import with_undefined
from smalti.quantizers.usage import batch_usage


@QUANTIZERS.register
class VectorQuantizerConfig(QuantizerConfig):
    """Settings of a `VectorQuantizer`.

    Attributes:
        num_codebooks: G, codes at each position (10 in the paper's CIFAR-10 latents 8x8x10).
        num_codes: K, codes in each codebook.
        code_dim: D, dimension of a code.
        commitment_weight: beta, 0.25 in all experiments of the paper.
        codebook: update rule of the codebook.
        gradient: estimator of the gradient of the latents.
        normalize: `codes`: latents and codes are unit vectors, as in ViT-VQGAN, with a `code_dim` of 4 to 32;
            `search`: unit vectors for the search only, as in DAC.
    """

    kind: Literal["vq"] = "vq"
    num_codebooks: int = Field(default=1, ge=1)
    num_codes: int = Field(default=512, ge=2)
    code_dim: int = Field(default=64, ge=1)
    commitment_weight: float = Field(default=0.25, ge=0)
    codebook: AnyCodebook = EMACodebookConfig()
    gradient: AnyEstimator = StraightThroughConfig()
    normalize: Normalize = "none"

    @classmethod
    def tiny(cls) -> VectorQuantizerConfig:
        """The smallest config with every part, for tests."""
        return cls(num_codebooks=2, num_codes=16, code_dim=4)

    def build(self) -> VectorQuantizer:
        """Build the untrained quantizer, for latents with channels first."""
        return VectorQuantizer(
            dim=self.num_codebooks * self.code_dim,
            num_codes=self.num_codes,
            num_codebooks=self.num_codebooks,
            commitment_weight=self.commitment_weight,
            codebook=self.codebook,
            gradient=self.gradient,
            normalize=self.normalize,
        )


@final
class VectorQuantizer(Quantizer):
    """Splits each position's latents into G vectors and replaces each by the nearest code of its codebook.

        loss = |sg[z_e] - e|^2 + beta |z_e - sg[e]|^2

    Both terms are averaged over all elements; the moving averages of an EMA codebook replace the first. With
    an estimator that trains the codes (DiVeQ, NSVQ) the loss is 0, and both terms are only reported. All
    computations are in float32, also under autocast. A vector that is not finite has no nearest code: its
    code is 0, and its latents are NaN. `config` holds all settings except the layout.

    Args:
        dim: channels of the latents.
        num_codes: K, codes in each codebook.
        num_codebooks: G, codes at each position; the codes of each codebook have dimension dim / G.
        commitment_weight: beta, 0.25 in all experiments of the paper.
        codebook: update rule of the codebook: "ema", "gradient" (the paper's loss), "simvq", "frozen", or a
            config.
        channel_last: latents are `(B, *grid, D)` and codes `(B, *grid, G)`, instead of `(B, D, *grid)` and
            `(B, G, *grid)`.
        gradient: estimator of the gradient of the latents: "straight_through", "rotation", "diveq", "nsvq",
            or a config. The last two need a codebook with a gradient.
        normalize: "none"; "codes": z_e / |z_e| and e / |e| take the places of z_e and e; "search": they do in
            the search for the nearest code only. See `Matching`.

    Raises:
        InputError: for a setting of another type or out of range, if G does not divide the channels, for an
            unknown kind of codebook or estimator, or if the estimator is to train codes without a gradient.
    """

    config: VectorQuantizerConfig

    def __init__(
        self,
        dim: int = 64,
        num_codes: int = 512,
        num_codebooks: int = 1,
        commitment_weight: float = 0.25,
        codebook: str | CodebookConfig = "ema",
        channel_last: bool = False,
        gradient: str | GradientEstimatorConfig = "straight_through",
        normalize: Normalize = "none",
    ) -> None:
        super().__init__()
        dim, num_codebooks = check_count("dim", dim), check_count("num_codebooks", num_codebooks)
        if dim % num_codebooks:
            raise InputError(
                f"expected a dim divisible by {num_codebooks} codebooks, received {dim}: choose "
                f"another number of codebooks, or {num_codebooks * max(1, dim // num_codebooks)} channels"
            )
        self.config = checked_settings(
            VectorQuantizerConfig,
            num_codebooks=num_codebooks,
            num_codes=num_codes,
            code_dim=dim // num_codebooks,
            commitment_weight=commitment_weight,
            codebook=codebook_config(codebook),
            gradient=estimator_config(gradient),
            normalize=normalize,
        )
        self.dim, self.num_codes, self.num_codebooks = dim, self.config.num_codes, num_codebooks
        self.layout = Layout(dim, channel_last)
        self.matching = Matching(normalize)
        self.codebook = self.config.codebook.build(num_codebooks, self.num_codes, self.config.code_dim)
        self.estimator = self.config.gradient.build()
        check_trains(self.estimator, self.codebook, self.codebook.kind)

    @property
    def title(self) -> str:
        """Display name: the kind of codebook, and settings that are not the defaults."""
        return f"{self.codebook.kind} codebook{self.matching.title_suffix}{title_suffix(self.estimator)}"

    def forward(self, latents: Float[Tensor, "b ..."]) -> Quantized:
        """Quantize; in training mode the codebook also learns from the latents.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        z_e = self.matching.tokens(self.layout.tokens(latents, self.num_codebooks))
        if self.training:
            self.codebook.prepare(z_e.detach())
        indices = self.matching.search(z_e, self.codebook)
        z_q = with_undefined(self.matching.look_up(indices, self.codebook), z_e)
        commitment = mse_loss(z_e, z_q.detach())
        terms = {"commitment": commitment.detach(), "batch_usage": batch_usage(indices, self.num_codes)}
        loss = self.config.commitment_weight * commitment
        codebook_loss = self.codebook.loss(z_e, z_q)
        if codebook_loss is not None:
            terms["codebook"] = codebook_loss.detach()
            loss = loss + codebook_loss
        if self.estimator.trains_codes:
            loss = torch.zeros_like(commitment)
        if self.training:
            self.codebook.learn(z_e.detach(), indices)
        places = self.layout.places(latents)
        return Quantized(
            latents=self.layout.latents(self.estimator(z_e, z_q, self.training), places),
            codes=self.layout.codes(indices, places),
            loss=loss,
            terms=terms,
        )

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "b ..."]) -> Int64[Tensor, "b ..."]:
        """Encode latents to codes; the codebook does not change.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        tokens = self.matching.tokens(self.layout.tokens(latents, self.num_codebooks))
        indices = self.matching.search(tokens, self.codebook)
        return self.layout.codes(indices, self.layout.places(latents))

    def decode(self, codes: Int64[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Decode codes to latents.

        Raises:
            InputError: if a code is out of range, or the number of codebooks is wrong.
        """
        first = self.layout.channels_first(codes)
        check_codes(first, self.num_codebooks, self.num_codes)
        z_q = self.matching.look_up(first.movedim(1, 0).flatten(1), self.codebook)
        return self.layout.latents(z_q, self.layout.places(codes))
