"""VIMCO: the same networks with a stochastic posterior over codes, trained with a multi-sample bound.

Source: Mnih & Rezende 2016, "Variational Inference for Monte Carlo Objectives" (arXiv 1602.06725).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smalti.core.conditioners import readable_conditions
from smalti.core.conditions import Batch, Conditions
from smalti.core.distortion import per_observed_dim
from smalti.core.errors import InputError
from smalti.core.models import MODELS, Autoencoder
from smalti.core.parts import Likelihood, LikelihoodFamily
from smalti.core.precision import in_full_precision
from smalti.core.results import BoundTerms, Loss
from smalti.core.signals import SignalSpec
from smalti.core.units import log_mean_exp, sum_over_items
from smalti.models.checks import check_types
from smalti.models.networks import (
    NetworksConfig,
    as_decoder,
    as_encoder,
    build_networks,
    check_fit,
    configs_of,
    tiny_networks,
)
from smalti.nn.collectives import rand_over_ranks
from smalti.nn.symbols import check_codes

NEGLIGIBLE = 1e-8
"""Weights below this vanish when added in float32 to the others, which sum to 1."""


@final
class VIMCO(Autoencoder):
    """Autoencoder with a factorised categorical posterior: the encoder outputs logits of each code.

        L = ln 1/S sum_i exp l_i,  l_i = ln p(x|z_i) + ln p(z_i) - ln q(z_i|x),  z_i ~ q(z|x)

    with the uniform prior p(z) in training. The gradient is sum_i (L - L_-i) grad ln q(z_i|x)
    + sum_i w_i grad l_i, where w = softmax(l), and L_-i is L with l_i replaced by the mean of the others
    (equations 8 to 11 of the source).

    Args:
        encoder: `(B, C, *size)` to `(B, G*K, *grid)`, logits of each code.
        decoder: `(B, G*D, *grid)` to `(B, P, *size)`.
        likelihood: of signals, with P parameters at each position.
        signal: channels, size and levels of the data.
        num_codebooks, num_codes, code_dim: G, K and D.
        num_samples: S of the multi-sample bound; 50 in the paper.
        decode_at_once: signals per decoder batch; memory of decoding grows with this, not with S.

    Raises:
        InputError: if the encoder's strides do not divide the signal's size, a number is out of range, or the
            decoder or the likelihood is conditioned on anything: a VIMCO passes them no conditions.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: LikelihoodFamily,
        signal: SignalSpec,
        *,
        num_codebooks: int = 1,
        num_codes: int = 512,
        code_dim: int = 64,
        num_samples: int = 50,
        decode_at_once: int = 256,
    ) -> None:
        super().__init__()
        check_types(encoder=encoder, decoder=decoder, likelihood=likelihood, signal=signal)
        sizes = (num_codebooks, num_codes - 1, code_dim, num_samples - 1, decode_at_once)
        if min(sizes) < 1:
            raise InputError(
                "expected num_codebooks, code_dim and decode_at_once of at least 1, num_codes and "
                f"num_samples of at least 2, received {num_codebooks}, {code_dim}, {decode_at_once}, "
                f"{num_codes} and {num_samples}: correct the smaller ones"
            )
        read = readable_conditions(decoder) | readable_conditions(likelihood)
        if read:
            raise InputError(
                "expected a decoder without conditions for VIMCO, received one conditioned on "
                f"{', '.join(sorted(read))}: build it without, or use a VQVAE"
            )
        configs = configs_of(encoder=encoder, decoder=decoder, likelihood=likelihood)
        self.config = (
            None
            if configs is None
            else VIMCOConfig(
                **configs,
                num_codebooks=num_codebooks,
                num_codes=num_codes,
                code_dim=code_dim,
                num_samples=num_samples,
                decode_at_once=decode_at_once,
            )
        )
        """Settings of the model, or None if a part is a third-party module."""
        self.signal = signal
        self.num_codebooks, self.num_codes = num_codebooks, num_codes
        self.num_samples, self.decode_at_once = num_samples, decode_at_once
        self.encoder = as_encoder(encoder, signal, num_codebooks * num_codes)
        self.decoder, self.family = as_decoder(decoder), likelihood
        bound = math.sqrt(3 / code_dim)
        shape = (num_codebooks, num_codes, code_dim)
        self.embeddings = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self._grid = self.encoder.grid(signal.size)
        check_fit(self.decoder, likelihood, signal, num_codebooks * code_dim, self._grid)

    @property
    def title(self) -> str:
        """Display name, with the number of samples of the bound."""
        return f"VIMCO, {self.num_samples} samples"

    @property
    def grid(self) -> tuple[int, ...]:
        """Size of the code grid of one signal."""
        return self._grid

    def log_posterior(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b g *grid k"]:
        """ln q of every code at every position."""
        logits = self.encoder(signal).float().unflatten(1, (self.num_codebooks, self.num_codes))
        return logits.movedim(2, -1).log_softmax(-1)

    def loss(self, batch: Batch) -> Loss:
        """Scalar with the VIMCO gradient, in nats per position; its value is -L / positions."""
        log_q = self.log_posterior(batch.data)
        codes = _draw(log_q.detach(), self.num_samples)
        uniform_rate = codes[0, 0].numel() * math.log(self.num_codes)
        log_q_drawn = _of_codes(log_q, codes)
        with torch.no_grad():
            # First pass: decode every draw without a graph, keeping only its log-probability.
            log_weights = self._log_likelihoods(codes, batch) - uniform_rate - log_q_drawn
        bound, signals = vimco_signals(log_weights)
        weights = log_weights.softmax(0)
        # Second pass: decode the draws with non-negligible weight again, with gradients.
        explained = self._weighted_log_likelihood(codes, weights, batch)
        score = (signals * log_q_drawn).sum(0)
        ascended = score + explained - (weights * log_q_drawn).sum(0)
        positions = batch.data[0].numel()
        # The value is that of the bound, the gradient that of the estimator.
        total = -(bound + ascended - ascended.detach()).mean() / positions
        one_sample = -log_weights.mean() / positions
        domain = self.signal.domain
        terms = {
            f"{domain.unit}_per_dim": per_observed_dim(one_sample, batch, domain),
            f"{domain.unit}_per_dim_weighted": per_observed_dim(total, batch, domain),
        }
        return Loss(total=total, terms=terms)

    @torch.no_grad()
    @in_full_precision
    def encode(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Int64[Tensor, "b g *grid"]:
        """Most probable codes of signals in [-1, 1]."""
        return self.log_posterior(signal).argmax(-1)

    @torch.no_grad()
    @in_full_precision
    def draw_codes(
        self,
        signal: Float[Tensor, "b c *size"],
        generator: torch.Generator | None = None,
        conditions: Conditions | None = None,
    ) -> Int64[Tensor, "b g *grid"]:
        """Draw codes from the posterior, once per signal."""
        return _draw(self.log_posterior(signal), 1, generator)[0]

    def likelihood(
        self, codes: Int64[Tensor, "b g *grid"], conditions: Conditions | None = None
    ) -> Likelihood:
        """p(x | codes).

        Raises:
            InputError: if a code is out of range, or the number of codebooks is wrong.
        """
        check_codes(codes, self.num_codebooks, self.num_codes)
        return self._likelihood(codes)

    @torch.no_grad()
    @in_full_precision
    def bound_terms(
        self, batch: Batch, draws: int = 1, generator: torch.Generator | None = None
    ) -> BoundTerms:
        """Distortion and ln q(z|x) of each draw; codes and reconstruction are those of the posterior mode."""
        log_q = self.log_posterior(batch.data)
        drawn, mode = _draw(log_q, draws, generator), log_q.argmax(-1)
        return BoundTerms(
            distortions=-self._log_likelihoods(drawn, batch).double(),
            log_posteriors=_of_codes(log_q, drawn).double(),
            draws=drawn,
            codes=mode,
            reconstruction=self._likelihood(mode).known_mean(),
        )

    def _likelihood(self, codes: Int64[Tensor, "b g *grid"]) -> Likelihood:
        picked = [table[c] for table, c in zip(self.embeddings, codes.unbind(1), strict=True)]
        return self.family(self.decoder(torch.cat(picked, -1).movedim(-1, 1)))

    def _log_likelihood(self, codes: Int64[Tensor, "b g *grid"], batch: Batch) -> Float[Tensor, " b"]:
        log_prob = self._likelihood(codes).log_prob(batch.data)
        return sum_over_items(log_prob, batch.lengths, batch.mask)

    def _log_likelihoods(self, codes: Int64[Tensor, "s b g *grid"], batch: Batch) -> Float[Tensor, "s b"]:
        """ln p(x | z) of every draw, decoded in batches; not usable for gradients."""
        items = torch.arange(len(batch.data), device=batch.data.device).repeat(len(codes))
        at_once = self.decode_at_once
        parts = [
            self._log_likelihood(part, batch.part(rows))
            for part, rows in zip(codes.flatten(0, 1).split(at_once), items.split(at_once), strict=True)
        ]
        return torch.cat(parts).view(codes.shape[:2])

    def _weighted_log_likelihood(
        self,
        codes: Int64[Tensor, "s b g *grid"],
        weights: Float[Tensor, "s b"],
        batch: Batch,
    ) -> Float[Tensor, " b"]:
        """sum_i w_i ln p(x | z_i) with gradients, over draws with non-negligible weight.

        Because the log-probability of a whole signal is large, very few draws of a step have nearly all the
        weight; the contribution of the others would be lost in rounding.
        """
        draws, items = (weights > NEGLIGIBLE).nonzero(as_tuple=True)
        at_once = self.decode_at_once
        total = weights.new_zeros(len(batch.data))

        def log_likelihood(d: Tensor, i: Tensor) -> Tensor:
            return self._log_likelihood(codes[d, i], batch.part(i))

        for d, i in zip(draws.split(at_once), items.split(at_once), strict=True):
            # Recomputed in the backward pass, so that the graph stores only the indices of the draws instead
            # of decoder activations.
            log_prob = checkpoint(log_likelihood, d, i, use_reentrant=False)
            total = total.index_add(0, i, weights[d, i] * log_prob)
        return total


@MODELS.register
class VIMCOConfig(NetworksConfig):
    """Settings of a `VIMCO`; its decoder takes no labels."""

    kind: Literal["vimco"] = "vimco"
    num_codebooks: int = Field(default=1, ge=1)
    num_codes: int = Field(default=512, ge=2)
    code_dim: int = Field(default=64, ge=1)
    num_samples: int = Field(default=50, ge=2)
    decode_at_once: int = Field(default=256, ge=1)

    @classmethod
    def tiny(cls) -> VIMCOConfig:
        """The smallest config with every part, for tests."""
        return cls(
            **tiny_networks(), num_codebooks=2, num_codes=5, code_dim=4, num_samples=4, decode_at_once=5
        )

    def build(self, signal: SignalSpec, conditions: Mapping[str, int] | None = None) -> VIMCO:
        """Build the untrained model."""
        del conditions
        networks = build_networks(
            self,
            signal,
            encoded=self.num_codebooks * self.num_codes,
            decoded=self.num_codebooks * self.code_dim,
        )
        model = VIMCO(
            *networks,
            signal,
            num_codebooks=self.num_codebooks,
            num_codes=self.num_codes,
            code_dim=self.code_dim,
            num_samples=self.num_samples,
            decode_at_once=self.decode_at_once,
        )
        model.config = self
        return model


def vimco_signals(
    log_weights: Float[Tensor, "s b"],
) -> tuple[Float[Tensor, " b"], Float[Tensor, "s b"]]:
    """The bound L of each item, and the learning signal L - L_-i of each of its draws."""
    draws = len(log_weights)
    bound = log_mean_exp(log_weights)
    others = (log_weights.sum(0) - log_weights) / (draws - 1)
    # Row i holds all log-weights, with that of draw i replaced by the mean of the others.
    own = torch.eye(draws, dtype=torch.bool, device=log_weights.device).unsqueeze(-1)
    replaced = torch.where(own, others, log_weights)
    return bound, bound - log_mean_exp(replaced.transpose(0, 1))


def _draw(
    log_q: Float[Tensor, "b g *grid k"], draws: int, generator: torch.Generator | None = None
) -> Int64[Tensor, "s b g *grid"]:
    """Draw independent codes by inverting each cumulative distribution.

    Without a generator, every rank draws for the whole batch and takes its share, so that training does not
    depend on the number of ranks.
    """
    cumulative = log_q.exp().cumsum(-1)
    shape = (*log_q.shape[:-1], draws)
    if generator is not None:
        uniform = torch.rand(shape, generator=generator, device=generator.device).to(log_q)
    else:
        uniform = rand_over_ranks(shape, log_q.device)
    threshold = uniform * cumulative[..., -1:]
    drawn = torch.searchsorted(cumulative, threshold, right=True).clamp_(max=log_q.shape[-1] - 1)
    return drawn.movedim(-1, 0).contiguous()


def _of_codes(
    log_q: Float[Tensor, "b g *grid k"], codes: Int64[Tensor, "s b g *grid"]
) -> Float[Tensor, "s b"]:
    """ln q(z | x) of each draw, summed over positions."""
    picked = log_q.gather(-1, codes.movedim(0, -1))
    return picked.movedim(-1, 0).flatten(2).sum(2)
