"""The VQ-VAE: encoder, quantizer, decoder and likelihood, trained by the paper's three-term loss."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Batch, Conditions
from smalti.core.distortion import loss_of
from smalti.core.errors import InputError
from smalti.core.locality import Extent, ReceptiveField
from smalti.core.models import MODELS, Autoencoder, ForwardPass
from smalti.core.parts import AnyQuantizer, Likelihood, LikelihoodFamily, Quantizer
from smalti.core.precision import in_full_precision
from smalti.core.results import Loss
from smalti.core.signals import SignalSpec
from smalti.models.checks import check_types
from smalti.models.decoded_windows import decode_batch
from smalti.models.networks import (
    NetworksConfig,
    as_decoder,
    as_encoder,
    build_networks,
    check_fit,
    configs_of,
    tiny_networks,
)
from smalti.models.windows import encode_batch
from smalti.nn.collectives import rand_over_ranks
from smalti.nn.jitter import jitter
from smalti.quantizers.vq import VectorQuantizerConfig


@final
class VQVAE(Autoencoder):
    """Neural Discrete Representation Learning, van den Oord et al. 2017 (arXiv 1711.00937).

        loss = -log p(x | z_q) / dims + |sg[z_e] - e|^2 + beta |z_e - sg[e]|^2

    The first term is in nats per dimension and the others are averaged over elements, so that beta has the
    same effect at every image size. The rate under the uniform prior is a constant and is omitted from the
    loss.

    Args:
        encoder: `(B, C, *size)` to `(B, D, *grid)`; an `Encoder`, or any module.
        quantizer: of latents with D channels.
        decoder: `(B, D, *grid)` to `(B, P, *size)`; a `Decoder`, or any module.
        likelihood: of signals, with P parameters at each position.
        signal: channels, size and levels of the data.
        jitter: probability with which training replaces the latents of a position by a neighbour's; for
            signals with one axis only.
        code_dropout: share of the items that training decodes without codes (zeros in place of latents),
            so that the decoder also learns p(x | no codes), and its reliance on the codes can be measured.

    Raises:
        InputError: if the encoder's strides do not divide the signal's size, or the parts do not fit.
    """

    def __init__(
        self,
        encoder: nn.Module,
        quantizer: Quantizer,
        decoder: nn.Module,
        likelihood: LikelihoodFamily,
        signal: SignalSpec,
        *,
        jitter: float = 0.0,
        code_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_types(
            encoder=encoder, quantizer=quantizer, decoder=decoder, likelihood=likelihood, signal=signal
        )
        if not (0 <= jitter <= 1 and 0 <= code_dropout < 1):
            raise InputError(
                f"expected jitter in [0, 1] and code_dropout in [0, 1), received {jitter} and "
                f"{code_dropout}: pass shares in these ranges"
            )
        if getattr(getattr(quantizer, "layout", None), "channel_last", False):
            raise InputError(
                "expected a quantizer of latents (B, D, *grid), received one with channel_last=True: "
                "build it without"
            )
        configs = configs_of(encoder=encoder, quantizer=quantizer, decoder=decoder, likelihood=likelihood)
        if configs is not None:
            configs |= {"jitter": jitter, "code_dropout": code_dropout}
        self.config = None if configs is None else VQVAEConfig(**configs)
        """Settings of the model, or None if a part is a third-party module."""
        self.signal = signal
        self.quantizer = quantizer
        self.encoder = as_encoder(encoder, signal, quantizer.dim)
        self.decoder, self.family = as_decoder(decoder), likelihood
        self.jitter, self.code_dropout = jitter, code_dropout
        self.num_codebooks, self.num_codes = quantizer.num_codebooks, quantizer.num_codes
        latent_grid = self.encoder.grid(signal.size)
        self._grid = quantizer.code_grid(latent_grid)
        check_fit(self.decoder, likelihood, signal, quantizer.dim, latent_grid)
        if code_dropout and self._grid != latent_grid:
            raise InputError(
                f"expected a quantizer with codes at each position for a code_dropout of {code_dropout}, "
                f"received {quantizer.title}: set model.code_dropout=0"
            )
        if jitter and signal.ndim != 1:
            raise InputError(
                f"expected signals with one axis for a jitter of {jitter}, received {signal.ndim} axes: "
                "set model.jitter=0"
            )

    @property
    def title(self) -> str:
        """Display name, with that of the quantizer."""
        return f"VQ-VAE, {self.quantizer.title}"

    @property
    def grid(self) -> tuple[int, ...]:
        """Size of the code grid of one signal."""
        return self._grid

    @property
    def codebook_ids(self) -> tuple[int, ...]:
        """Codebook of each of the G codes of a position."""
        return self.quantizer.codebook_ids

    def loss(self, batch: Batch) -> Loss:
        """The paper's three-term loss; logs the distortion in bits/dim, or nats/dim of a density."""
        return loss_of(self.forward_pass(batch), batch, self.signal.domain)

    def forward_pass(self, batch: Batch) -> ForwardPass:
        """Encode, quantize and decode; the loss of latents is the quantizer's."""
        quantized = self.quantizer(self.encoder(batch.data, batch.conditions))
        latents = self._regularised(quantized.latents) if self.training else quantized.latents
        output = self.decoder(latents, batch.conditions)
        likelihood = self.family(output, batch.conditions)
        return ForwardPass(output, likelihood, quantized.loss, quantized.terms, latents)

    @torch.no_grad()
    @in_full_precision
    def encode(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Int64[Tensor, "b g *grid"]:
        """Encode signals in [-1, 1] to codes; those with a time axis in windows, see `smalti.models.windows`.

        Raises:
            InputError: if the encoder's strides do not divide the size.
        """
        if self.signal.has_time and not _is_traced() and self.receptive_field is not None:
            self.encoder.grid(signal.shape[2:])
            return encode_batch(self, signal, conditions)
        return self.quantizer.encode(self.encoder(signal, conditions))

    @torch.no_grad()
    @in_full_precision
    def latents(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """The latents of the codes."""
        return self.quantizer.decode(self.encode(signal, conditions))

    def first_codes(self, num: int) -> VQVAE:
        """Return a copy for the first codes of each position alone.

        Raises:
            InputError: if the quantizer is not residual, or has fewer stages.
        """
        quantizer = self.quantizer.first(num)
        made = copy.deepcopy(self)
        made.quantizer, made.num_codebooks = quantizer, quantizer.num_codebooks
        if self.config is not None:
            made.config = self.config.changed({"quantizer": quantizer.config})
        return made

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Of the encoder; None for a quantizer whose codes depend on several latents."""
        return self.encoder.receptive_field if self.quantizer.is_per_position else None

    @torch.no_grad()
    @in_full_precision
    def encode_within(
        self, signal: Float[Tensor, "b c *size"], extent: Extent, conditions: Conditions | None = None
    ) -> Int64[Tensor, "b g *grid"]:
        """Encode windows of longer signals to codes."""
        return self.quantizer.encode(self.encoder.within(signal, extent, conditions))

    @property
    def decoded_field(self) -> ReceptiveField | None:
        """Of the decoder; None for codes or a likelihood that depend on several positions."""
        is_local = self.quantizer.is_per_position and self.family.is_per_position
        return self.decoder.receptive_field if is_local else None

    @torch.no_grad()
    @in_full_precision
    def decode_within(
        self, codes: Int64[Tensor, "b g *grid"], extent: Extent, conditions: Conditions | None = None
    ) -> Float[Tensor, "b c *size"]:
        """Decode windows of codes to the mean of their signals."""
        latents = self.quantizer.decode(codes)
        return self.family(self.decoder.within(latents, extent, conditions), conditions).mean()

    @in_full_precision
    def decode(
        self,
        codes: Int64[Tensor, "b g *grid"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Float[Tensor, "b c *size"]:
        """The mean of p(x | codes); a draw if the mean is unknown.

        Signals with a time axis, and others of another size than in training, are decoded in windows.
        """
        if not _is_traced() and self._may_be_large(codes) and self.decoded_field is not None:
            return decode_batch(self, codes, conditions)
        return self.likelihood(codes, conditions).mean_or_draw(generator, temperature)

    def _may_be_large(self, codes: Int64[Tensor, "b g *grid"]) -> bool:
        return codes.numel() > 0 and (self.signal.has_time or tuple(codes.shape[2:]) != self._grid)

    def likelihood(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions | None = None
    ) -> Likelihood:
        """p(x | codes, label).

        Raises:
            InputError: if a code is out of range, or the number of codebooks is wrong.
        """
        return self._decoded(self.quantizer.decode(codes), conditions)

    def likelihood_without_codes(
        self, num: int, grid: Sequence[int], conditions: Conditions | None = None
    ) -> Likelihood | None:
        """p(x | no codes, label); None for a model trained without `code_dropout`."""
        if not self.code_dropout:
            return None
        device = next(self.parameters()).device
        return self._decoded(torch.zeros(num, self.quantizer.dim, *grid, device=device), conditions)

    def _regularised(self, latents: Float[Tensor, "b d *grid"]) -> Float[Tensor, "b d *grid"]:
        """Apply jitter and code dropout, drawn for the batch of all ranks."""
        if self.jitter:
            latents = jitter(latents, self.jitter)
        if self.code_dropout:
            drawn = rand_over_ranks((len(latents),), latents.device)
            kept = (drawn >= self.code_dropout).to(latents)
            latents = latents * kept.view(-1, *(1,) * (latents.ndim - 1))
        return latents

    def _decoded(self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None) -> Likelihood:
        return self.family(self.decoder(latents, conditions), conditions)


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.compiler.is_exporting()


@MODELS.register
class VQVAEConfig(NetworksConfig):
    """Settings of a `VQVAE`: its parts, and the regularisation of latents in training."""

    decoding_fields: ClassVar[tuple[str, ...]] = ("decoder", "likelihood", "jitter", "code_dropout")

    kind: Literal["vqvae"] = "vqvae"
    quantizer: AnyQuantizer = VectorQuantizerConfig()
    jitter: float = Field(default=0.0, ge=0, le=1)
    code_dropout: float = Field(default=0.0, ge=0, lt=1)

    @classmethod
    def tiny(cls) -> VQVAEConfig:
        """The smallest config with every part, for tests."""
        return cls(**tiny_networks(), quantizer=VectorQuantizerConfig.tiny())

    def build(self, signal: SignalSpec, conditions: Mapping[str, int] | None = None) -> VQVAE:
        """Build the untrained model."""
        quantizer = self.quantizer.build()
        encoder, decoder, likelihood = build_networks(
            self, signal, encoded=quantizer.dim, decoded=quantizer.dim, conditions=conditions
        )
        model = VQVAE(
            encoder,
            quantizer,
            decoder,
            likelihood,
            signal,
            jitter=self.jitter,
            code_dropout=self.code_dropout,
        )
        model.config = self
        return model
