"""Residual vector quantization: each stage quantizes the residual of the previous stages."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal, cast, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from smalti.core.errors import InputError
from smalti.core.parts import QUANTIZERS, Quantizer, QuantizerConfig
from smalti.core.results import Quantized
from smalti.core.validation import checked_settings
from smalti.nn.symbols import check_codes
from smalti.quantizers.codebooks.base import AnyCodebook, Codebook, CodebookConfig, codebook_config
from smalti.quantizers.codebooks.ema import EMACodebookConfig
from smalti.quantizers.dropout import check_stages, stages_kept
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
from smalti.quantizers.projection import TokenProjection
from smalti.quantizers.undefined import with_undefined
from smalti.quantizers.usage import batch_usage


@QUANTIZERS.register
class ResidualVQConfig(QuantizerConfig):
    """Settings of a `ResidualVQ`.

    Attributes:
        dim: D, channels of the latents, and dimension of every code without `code_dim`.
        num_codes: K, codes in the codebook of each stage.
        num_quantizers: number of stages, and of codes at each position.
        commitment_weight: beta.
        quantizer_dropout: share of the items of a training batch that are decoded from the first n stages
            only, with n uniform from 1 to the number of stages.
        codebook: update rule of the codebook of each stage.
        gradient: estimator of the gradient of the latents, which are the sum over stages.
        code_dim: d, dimension of every code, with projections from D to d channels and back at each stage (8
            in DAC); None for none.
        normalize: `codes`: tokens and codes are unit vectors, which requires `code_dim`; `search`: unit
            vectors for the search only, as in DAC.
        split_first: whether the first stage is parallel to the others, as in Mimi, instead of before them;
            requires `code_dim`.
    """

    kind: Literal["residual"] = "residual"
    dim: int = Field(default=64, ge=1)
    num_codes: int = Field(default=512, ge=2)
    num_quantizers: int = Field(default=4, ge=1)
    commitment_weight: float = Field(default=0.25, ge=0)
    quantizer_dropout: float = Field(default=0.0, ge=0, le=1)
    codebook: AnyCodebook = EMACodebookConfig()
    gradient: AnyEstimator = StraightThroughConfig()
    code_dim: int | None = Field(default=None, ge=1)
    normalize: Normalize = "none"
    split_first: bool = False

    def build(self) -> ResidualVQ:
        """Build the untrained quantizer, for latents with channels first."""
        return ResidualVQ(
            self.dim,
            self.num_codes,
            self.num_quantizers,
            self.commitment_weight,
            self.quantizer_dropout,
            self.codebook,
            gradient=self.gradient,
            code_dim=self.code_dim,
            normalize=self.normalize,
            split_first=self.split_first,
        )


@final
class ResidualVQ(Quantizer):
    """Stage i replaces the residual r_i by its nearest code e_i; the latents are the sum of the codes.

        r_1 = z_e,  r_(i+1) = r_i - sg[e_i],  z_q = e_1 + ... + e_n
        loss = mean over stages of |sg[r_i] - e_i|^2 + beta |r_i - sg[e_i]|^2

    Zeghidour et al. 2021 (SoundStream, arXiv 2107.03312), section III.C, with its quantizer dropout. The
    moving averages of an EMA codebook replace the first term. All computations are in float32, also under
    autocast. A vector that is not finite has no nearest code: its codes are 0, and its latents are NaN.

    The gradient estimator is applied once, to z_e and the sum of the codes. One that trains the codes (DiVeQ,
    NSVQ) gives the codes of all stages the same gradient; the loss is then 0, its terms are only reported.

    With `code_dim`, each stage projects its residual to d channels, and its code back:

        p_i = A_i r_i + a_i,  o_i = B_i e_i + b_i,  r_(i+1) = r_i - o_i,  z_q = o_1 + ... + o_n

    Kumar et al. 2023 (DAC, arXiv 2306.06546). The loss then compares p_i with e_i, the estimator is applied
    to them at each stage, and gradients pass through the residuals, so that they train the projections. With
    `split_first`, the second stage has z_e as its residual too (Mimi, Defossez et al. 2024, arXiv
    2410.00037), so that the first code need not be what reconstructs best.

    Dropout affects only the latents of `forward` in training: `codes` contains the codes of all stages, and
    all stages learn from all items. The first n codes of a position are those of the first n stages.

    Args:
        dim: D, channels of the latents, and dimension of every code without `code_dim`.
        num_codes: K, codes in the codebook of each stage.
        num_quantizers: number of stages, and of codes at each position.
        commitment_weight: beta.
        quantizer_dropout: share of the items of a training batch that are decoded from the first n stages
            only, with n uniform from 1 to the number of stages.
        codebook: update rule of the codebooks: "ema", "gradient" (the paper's loss), "simvq", "frozen", or a
            config.
        channel_last: latents are `(B, *grid, D)` and codes `(B, *grid, G)`, instead of `(B, D, *grid)` and
            `(B, G, *grid)`.
        gradient: estimator of the gradient of the latents: "straight_through", "rotation", "diveq", "nsvq",
            or a config. The last two need codebooks with a gradient.
        code_dim: d, dimension of every code, with projections; None for codes of dimension D without.
        normalize: "none", "codes" or "search"; see `Matching`. "codes" requires `code_dim`.
        split_first: whether the first stage is parallel to the others; requires `code_dim`.

    Raises:
        InputError: for a setting of another type or out of range, for an unknown kind of codebook or
            estimator, if the estimator is to train codes without a gradient, or if a setting requires
            `code_dim`.
    """

    config: ResidualVQConfig

    def __init__(
        self,
        dim: int = 64,
        num_codes: int = 512,
        num_quantizers: int = 4,
        commitment_weight: float = 0.25,
        quantizer_dropout: float = 0.0,
        codebook: str | CodebookConfig = "ema",
        channel_last: bool = False,
        gradient: str | GradientEstimatorConfig = "straight_through",
        code_dim: int | None = None,
        normalize: Normalize = "none",
        split_first: bool = False,
    ) -> None:
        super().__init__()
        self.config = checked_settings(
            ResidualVQConfig,
            dim=dim,
            num_codes=num_codes,
            num_quantizers=num_quantizers,
            commitment_weight=commitment_weight,
            quantizer_dropout=quantizer_dropout,
            codebook=codebook_config(codebook),
            gradient=estimator_config(gradient),
            code_dim=code_dim,
            normalize=normalize,
            split_first=split_first,
        )
        if code_dim is None and (split_first or normalize == "codes"):
            setting = "split_first" if split_first else "normalize=codes"
            raise InputError(
                f"expected a code_dim with {setting}, received none: the sum over stages needs their "
                "projections, so set code_dim=8, or another dimension"
            )
        c = self.config
        dim, num_codes, num_quantizers, code_dim = c.dim, c.num_codes, c.num_quantizers, c.code_dim
        self.dim, self.num_codes, self.num_codebooks = dim, num_codes, num_quantizers
        self.layout = Layout(dim, channel_last)
        self.matching = Matching(normalize)
        own = dim if code_dim is None else code_dim
        self.codebooks = nn.ModuleList(
            self.config.codebook.build(1, num_codes, own) for _ in range(num_quantizers)
        )
        projected = 0 if code_dim is None else num_quantizers
        self.down = nn.ModuleList(TokenProjection(dim, own) for _ in range(projected))
        self.up = nn.ModuleList(TokenProjection(own, dim) for _ in range(projected))
        self.estimator = self.config.gradient.build()
        check_trains(self.estimator, self._stages[0], self._stages[0].kind)

    @property
    def title(self) -> str:
        """Display name: number of stages, kind of codebook, and settings that are not the defaults."""
        config = self.config
        parts = [
            f"residual VQ of {self.num_codebooks} stages{', the first apart' if config.split_first else ''}",
            f"{self._stages[0].kind} codebooks"
            + (f" of {config.code_dim}-d codes" if config.code_dim is not None else ""),
        ]
        return ", ".join(parts) + self.matching.title_suffix + title_suffix(self.estimator)

    def forward(self, latents: Float[Tensor, "b ..."]) -> Quantized:
        """Quantize; in training mode the codebooks also learn from the residuals.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        z_e = self.layout.tokens(latents)
        places = self.layout.places(latents)
        kept = None
        if self.training and self.config.quantizer_dropout:
            kept = stages_kept(latents, self.num_codebooks, self.config.quantizer_dropout)
        residual, z_q = z_e, torch.zeros_like(z_e)
        indices, commitments, losses = [], [], []
        for stage, codebook in enumerate(self._stages):
            tokens = self._tokens(residual, stage, places)
            if self.training:
                codebook.prepare(tokens.detach())
            chosen = self.matching.search(tokens, codebook)
            e = self.matching.look_up(chosen, codebook)
            commitments.append(mse_loss(tokens, e.detach()))
            losses.append(codebook.loss(tokens, e))
            if self.training:
                codebook.learn(tokens.detach(), chosen)
            indices.append(chosen)
            if self.up:
                code = self._latents(self.estimator(tokens, e, self.training), stage, places)
                residual = self._rest(z_e, residual, code, stage)
            else:
                code = e
                residual = self._rest(z_e, residual, e.detach(), stage)
            if kept is not None:
                # Expand from one number per item to all its positions.
                used = (kept > stage).repeat_interleave(math.prod(places[1:]))
                code = torch.where(used.view(1, -1, 1), code, 0)
            z_q = z_q + code
        codes = torch.cat(indices)
        commitment = torch.stack(commitments).mean()
        terms = {"commitment": commitment.detach(), "batch_usage": batch_usage(codes, self.num_codes)}
        loss = self.config.commitment_weight * commitment
        learned = [each for each in losses if each is not None]
        if learned:
            codebook_loss = torch.stack(learned).mean()
            terms["codebook"] = codebook_loss.detach()
            loss = loss + codebook_loss
        if self.estimator.trains_codes:
            loss = torch.zeros_like(commitment)
        z_q = with_undefined(z_q, z_e)
        if not self.up:
            z_q = self.estimator(z_e, z_q, self.training)
        return Quantized(
            latents=self.layout.latents(z_q, places),
            codes=self.layout.codes(codes, places),
            loss=loss,
            terms=terms,
        )

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "b ..."]) -> Int64[Tensor, "b ..."]:
        """Encode latents to codes, in the order of the stages; the codebooks do not change.

        Raises:
            InputError: for latents with the wrong number of channels.
        """
        places, indices = self.layout.places(latents), []
        z_e = residual = self.layout.tokens(latents)
        for stage, codebook in enumerate(self._stages):
            indices.append(self.matching.search(self._tokens(residual, stage, places), codebook))
            code = self._latents(self.matching.look_up(indices[-1], codebook), stage, places)
            residual = self._rest(z_e, residual, code, stage)
        return self.layout.codes(torch.cat(indices), places)

    def decode(self, codes: Int64[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Decode codes to latents: the sum over stages.

        Raises:
            InputError: if a code is out of range, or the number of stages is wrong.
        """
        first = self.layout.channels_first(codes)
        check_codes(first, self.num_codebooks, self.num_codes)
        indices, places = first.movedim(1, 0).flatten(1), self.layout.places(codes)
        z_q = torch.zeros(1, indices.shape[1], self.dim, dtype=torch.float32, device=codes.device)
        # In the order of `forward`, so that both sums have the same rounding.
        for stage, (codebook, chosen) in enumerate(zip(self._stages, indices.unsqueeze(1), strict=True)):
            z_q = z_q + self._latents(self.matching.look_up(chosen, codebook), stage, places)
        return self.layout.latents(z_q, places)

    def first(self, num: Any) -> ResidualVQ:
        """Return a copy of the first stages.

        Raises:
            InputError: for a number below 1 or above that of the stages.
        """
        check_stages(num, self.num_codebooks)
        made = copy.deepcopy(self)
        made.config, made.num_codebooks = self.config.changed({"num_quantizers": num}), num
        for stages in (made.codebooks, made.down, made.up):
            del stages[num:]
        return made

    def _tokens(self, residual: Tensor, stage: int, places: Sequence[Any]) -> Float[Tensor, "1 n d"]:
        """Tokens of a stage, of the dimension of its codes."""
        return self.matching.tokens(self.down[stage](residual, places[0]) if self.down else residual)

    def _latents(self, code: Tensor, stage: int, places: Sequence[Any]) -> Float[Tensor, "1 n d"]:
        """Contribution of a stage's codes to the latents."""
        return self.up[stage](code, places[0]) if self.up else code

    def _rest(self, z_e: Tensor, residual: Tensor, code: Tensor, stage: int) -> Float[Tensor, "1 n d"]:
        """Residual of the next stage."""
        return z_e if self.config.split_first and stage == 0 else residual - code

    @property
    def _stages(self) -> list[Codebook]:
        return cast("list[Codebook]", list(self.codebooks))
