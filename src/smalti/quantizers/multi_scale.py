"""Multi-scale residual vector quantization (VAR, Tian et al. 2024, arXiv 2404.02905)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss

from smalti.core.errors import InputError
from smalti.core.parts import QUANTIZERS, Quantizer, QuantizerConfig
from smalti.core.results import Quantized
from smalti.core.validation import checked_settings
from smalti.nn.symbols import check_codes
from smalti.quantizers.codebooks.base import AnyCodebook, CodebookConfig, codebook_config, search
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
from smalti.quantizers.undefined import with_undefined
from smalti.quantizers.usage import batch_usage

Side = Annotated[int, Field(ge=1)]
Grid = tuple[int, ...]

SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""The paper's scales for latents of 16x16."""


@QUANTIZERS.register
class MultiScaleVQConfig(QuantizerConfig):
    """Settings of a `MultiScaleVQ`.

    Attributes:
        dim: D, channels of the latents and dimension of a code.
        num_codes: K, codes in the codebook of all scales.
        scales: grids of codes, coarsest first; the last one is that of the latents. A number s is a grid of
            s x s.
        commitment_weight: beta.
        codebook: update rule of the codebook.
        gradient: estimator of the gradient of the latents, which are the sum over scales.
    """

    kind: Literal["multi_scale"] = "multi_scale"
    dim: int = Field(default=32, ge=1)
    num_codes: int = Field(default=4096, ge=2)
    scales: tuple[Side | tuple[Side, ...], ...] = Field(default=SCALES, min_length=1)
    commitment_weight: float = Field(default=0.25, ge=0)
    codebook: AnyCodebook = EMACodebookConfig()
    gradient: AnyEstimator = StraightThroughConfig()

    def build(self) -> MultiScaleVQ:
        """Build the untrained quantizer, for latents with channels first."""
        return MultiScaleVQ(
            self.dim,
            self.num_codes,
            self.scales,
            self.commitment_weight,
            self.codebook,
            gradient=self.gradient,
        )


@final
class MultiScaleVQ(Quantizer):
    """Quantizes latents at growing resolutions; each scale quantizes the residual of all coarser ones.

        f_0 = 0,  r_k = area-average of z - f_(k-1) on the grid of scale k
        f_k = f_(k-1) + bicubic interpolation of the nearest codes of r_k,  z_q = f_n
        loss = mean over scales of |sg[z] - f_k|^2 + beta |z - sg[f_k]|^2

    Algorithm 1 of the paper, without its convolutions after the interpolation. All scales share one codebook,
    which learns from the tokens of all scales at once; the moving averages of an EMA codebook replace the
    first term of the loss. Latents with three axes are interpolated linearly. All computations are in
    float32, also under autocast. A vector that is not finite has no nearest code: its latents are NaN, and
    the item's codes of each scale whose averages it enters are 0.

    Latents have the grid of the last scale. The codes of an item are one sequence, scale by scale and
    row-major in each scale, and form the codebook axis over a grid of one position: `(B, G, 1, 1)` for two
    axes, where G is the number of codes of all scales, 680 for the paper's.

    Args:
        dim: D, channels of the latents and dimension of a code.
        num_codes: K.
        scales: grids of codes, coarsest first, as tuples, or numbers s for s x s.
        commitment_weight: beta.
        codebook: update rule of the codebook: "ema", "gradient" (the paper's loss), "simvq", "frozen", or a
            config.
        channel_last: latents are `(B, *grid, D)` and codes `(B, 1, ..., G)`, instead of `(B, D, *grid)` and
            `(B, G, 1, ...)`.
        gradient: estimator of the gradient of the latents: "straight_through", "rotation", "diveq", "nsvq",
            or a config. The last two need a codebook with a gradient.

    Raises:
        InputError: for a setting of another type or out of range, for scales of different numbers of axes or
            larger than the last one, for an unknown kind of codebook or estimator, or if the estimator is to
            train codes without a gradient.
    """

    config: MultiScaleVQConfig
    is_per_position = False

    def __init__(
        self,
        dim: int = 32,
        num_codes: int = 4096,
        scales: Sequence[int | Sequence[int]] = SCALES,
        commitment_weight: float = 0.25,
        codebook: str | CodebookConfig = "ema",
        channel_last: bool = False,
        gradient: str | GradientEstimatorConfig = "straight_through",
    ) -> None:
        super().__init__()
        self.config = checked_settings(
            MultiScaleVQConfig,
            dim=dim,
            num_codes=num_codes,
            scales=scales,
            commitment_weight=commitment_weight,
            codebook=codebook_config(codebook),
            gradient=estimator_config(gradient),
        )
        self.scales = _grids(self.config.scales)
        self.grid = self.scales[-1]
        """Grid of the latents."""
        self.dim, self.num_codes = self.config.dim, self.config.num_codes
        self.num_codebooks = sum(math.prod(grid) for grid in self.scales)
        self.layout = Layout(self.dim, channel_last)
        self.codebook = self.config.codebook.build(1, self.num_codes, self.dim)
        self.estimator = self.config.gradient.build()
        check_trains(self.estimator, self.codebook, self.codebook.kind)

    @property
    def title(self) -> str:
        """Display name: the number of scales, the kind of codebook, and the estimator."""
        kind = self.codebook.kind
        return f"multi-scale VQ of {len(self.scales)} scales, {kind} codebook{title_suffix(self.estimator)}"

    @property
    def codebook_ids(self) -> tuple[int, ...]:
        """Codebook of each of the G codes: all have the same."""
        return (0,) * self.num_codebooks

    def code_grid(self, grid: Sequence[int]) -> Grid:
        """Return the grid of codes: one position.

        Raises:
            InputError: for another grid than that of the last scale.
        """
        if tuple(grid) != self.grid:
            raise InputError(
                f"expected latents with the grid {self.grid} of the last scale, received {tuple(grid)}: "
                "set quantizer.scales to end with the grid of the encoder"
            )
        return (1,) * len(self.grid)

    def forward(self, latents: Float[Tensor, "b ..."]) -> Quantized:
        """Quantize; in training mode the codebook also learns from the tokens of all scales.

        Raises:
            InputError: for latents with the wrong number of channels, or another grid.
        """
        z = self._maps(latents)
        if self.training:
            averages = [_tokens(_area(z.detach(), grid)) for grid in self.scales]
            self.codebook.prepare(self._by_item(averages, z.shape[0]))
        total = torch.zeros_like(z)
        tokens, indices, commitments, losses = [], [], [], []
        for grid in self.scales:
            tokens.append(_tokens(_area((z - total).detach(), grid)))
            indices.append(search(tokens[-1], self.codebook.codes.detach()))
            total = total + self._upsampled(indices[-1], grid)
            commitments.append(mse_loss(z, total.detach()))
            losses.append(self.codebook.loss(_tokens(z), _tokens(total)))
        chosen = self._by_item(indices, z.shape[0])
        if self.training:
            self.codebook.learn(self._by_item(tokens, z.shape[0]), chosen)
        commitment = torch.stack(commitments).mean()
        terms = {
            "commitment": commitment.detach(),
            "batch_usage": batch_usage(chosen, self.num_codes),
        }
        loss = self.config.commitment_weight * commitment
        learned = [each for each in losses if each is not None]
        if learned:
            codebook_loss = torch.stack(learned).mean()
            terms["codebook"] = codebook_loss.detach()
            loss = loss + codebook_loss
        if self.estimator.trains_codes:
            loss = torch.zeros_like(commitment)
        z_e = _tokens(z)
        z_q = self.estimator(z_e, with_undefined(_tokens(total), z_e), self.training)
        return Quantized(
            latents=self.layout.latents(z_q, (z.shape[0], *self.grid)),
            codes=self._packed(indices, z.shape[0]),
            loss=loss,
            terms=terms,
        )

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "b ..."]) -> Int64[Tensor, "b ..."]:
        """Encode latents to codes; the codebook does not change.

        Raises:
            InputError: for latents with the wrong number of channels, or another grid.
        """
        z = self._maps(latents)
        total, indices = torch.zeros_like(z), []
        for grid in self.scales:
            indices.append(search(_tokens(_area(z - total, grid)), self.codebook.codes))
            total = total + self._upsampled(indices[-1], grid)
        return self._packed(indices, z.shape[0])

    def decode(self, codes: Int64[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Decode codes to latents: the sum over scales.

        Raises:
            InputError: if a code is out of range, or the number of codes is wrong.
        """
        first = self.layout.channels_first(codes)
        check_codes(first, self.num_codebooks, self.num_codes)
        if first.shape[2:] != (1,) * len(self.grid):
            raise InputError(
                f"expected codes whose {len(self.grid)} axes of the grid have length 1, received codes of "
                f"shape {tuple(codes.shape)}: pass them as `encode` returns them"
            )
        flat = first.flatten(1)
        total = torch.zeros(flat.shape[0], self.dim, *self.grid, dtype=torch.float32, device=codes.device)
        sizes = [math.prod(grid) for grid in self.scales]
        for chosen, grid in zip(flat.split(sizes, 1), self.scales, strict=True):
            total = total + self._upsampled(chosen.reshape(1, -1), grid)
        return self.layout.latents(_tokens(total), (flat.shape[0], *self.grid))

    def _maps(self, latents: Float[Tensor, "b ..."]) -> Float[Tensor, "b d *grid"]:
        tokens = self.layout.tokens(latents)
        places = self.layout.places(latents)
        self.code_grid(places[1:])
        # Contiguous, because pooling may round differently in another memory format.
        return tokens[0].unflatten(0, places).movedim(-1, 1).contiguous()

    def _upsampled(self, indices: Int64[Tensor, "1 n"], grid: Grid) -> Float[Tensor, "b d *grid"]:
        """Codes of a scale on the grid of the latents."""
        num = indices.shape[1] // math.prod(grid)
        codes = self.codebook.look_up(indices)[0].unflatten(0, (num, *grid)).movedim(-1, 1).contiguous()
        if grid == self.grid:
            return codes
        if len(grid) == 1:
            # An axis of length 1 is left as it is.
            size = (1, *self.grid)
            return interpolate(codes.unsqueeze(2), size, mode="bicubic", align_corners=False).squeeze(2)
        mode = "bicubic" if len(grid) == 2 else "trilinear"
        return interpolate(codes, self.grid, mode=mode, align_corners=False)

    def _by_item(self, of_scales: Sequence[Tensor], num: int) -> Tensor:
        """Join the tokens or indices of all scales, item by item.

        In this order, the batches of all ranks follow each other as in one process, where tokens are drawn.
        """
        sizes = [math.prod(grid) for grid in self.scales]
        rows = [each.unflatten(1, (num, size)) for each, size in zip(of_scales, sizes, strict=True)]
        return torch.cat(rows, 2).flatten(1, 2)

    def _packed(self, indices: Sequence[Int64[Tensor, "1 n"]], num: int) -> Int64[Tensor, "b ..."]:
        packed = self._by_item(indices, num).view(num, self.num_codebooks).t()
        return self.layout.codes(packed, (num, *(1,) * len(self.grid)))


def _grids(scales: Iterable[int | tuple[int, ...]]) -> list[Grid]:
    """Grid of each scale.

    Raises:
        InputError: for different numbers of axes, more than 3, or a scale larger than the last one.
    """
    grids = [(scale, scale) if isinstance(scale, int) else scale for scale in scales]
    last = grids[-1]
    if not 1 <= len(last) <= 3 or any(len(grid) != len(last) for grid in grids):
        raise InputError(
            f"expected scales with the same number of axes, from 1 to 3, received {grids}: write each as a "
            "tuple of that length"
        )
    if any(side > most for grid in grids for side, most in zip(grid, last, strict=True)):
        raise InputError(
            f"expected the last scale to be the largest along every axis, received {grids}: let it be the "
            "grid of the latents"
        )
    return grids


def _area(maps: Float[Tensor, "b d *grid"], grid: Grid) -> Float[Tensor, "b d *small"]:
    """Average maps over the area of each position of a smaller grid."""
    if maps.shape[2:] == grid:
        return maps
    return interpolate(maps, grid, mode="area")


def _tokens(maps: Float[Tensor, "b d *grid"]) -> Float[Tensor, "1 n d"]:
    return maps.movedim(1, -1).flatten(0, -2).unsqueeze(0)
