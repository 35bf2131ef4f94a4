"""Continuous VAE, the paper's baseline: the same networks with a Gaussian in place of the codes.

Sources: Kingma & Welling 2014 (arXiv 1312.6114); the importance-weighted bound, Burda et al. 2016
(arXiv 1509.00519).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.core.conditions import Batch, Conditions
from smalti.core.distortion import loss_of, per_observed_dim
from smalti.core.errors import InputError
from smalti.core.models import MODELS, ForwardPass, LatentVariableModel
from smalti.core.parts import Likelihood, LikelihoodFamily
from smalti.core.precision import in_full_precision
from smalti.core.results import BoundTerms, LatentPrior, Loss
from smalti.core.signals import SignalSpec
from smalti.core.units import sum_over_items
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
from smalti.nn.collectives import randn_over_ranks

PRIOR = "normal"
"""Name of the prior, N(0, I)."""

WIDEST = 5.0
"""Bound on |ln| of the posterior's standard deviation, so that no exponential overflows."""


@final
class VAE(LatentVariableModel):
    """VAE with a diagonal Gaussian posterior and a standard normal prior.

        -ELBO = E_q[-ln p(x|z)] + KL(q(z|x) | N(0, I)),
        KL = sum (mu^2 + sigma^2 - 1) / 2 - ln sigma

    Args:
        encoder: `(B, C, *size)` to `(B, 2D, *grid)`, mean and ln of the standard deviation of each latent.
        decoder: `(B, D, *grid)` to `(B, P, *size)`.
        likelihood: of signals, with P parameters at each position.
        signal: channels, size and levels of the data.
        latent_dim: D.

    Raises:
        InputError: if the encoder's strides do not divide the signal's size, or latent_dim is out of range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: LikelihoodFamily,
        signal: SignalSpec,
        latent_dim: int = 64,
    ) -> None:
        super().__init__()
        check_types(encoder=encoder, decoder=decoder, likelihood=likelihood, signal=signal)
        if latent_dim < 1:
            raise InputError(f"expected latent_dim >= 1, received {latent_dim}: pass the latents' channels")
        configs = configs_of(encoder=encoder, decoder=decoder, likelihood=likelihood)
        self.config = None if configs is None else VAEConfig(**configs, latent_dim=latent_dim)
        """Settings of the model, or None if a part is a third-party module."""
        self.signal, self.latent_dim = signal, latent_dim
        self.encoder = as_encoder(encoder, signal, 2 * latent_dim)
        self.decoder, self.family = as_decoder(decoder), likelihood
        self.grid = self.encoder.grid(signal.size)
        check_fit(self.decoder, likelihood, signal, latent_dim, self.grid)

    @property
    def title(self) -> str:
        """Display name."""
        return "VAE"

    def posterior(
        self, signal: Float[Tensor, "b c *size"]
    ) -> tuple[Float[Tensor, "b d *grid"], Float[Tensor, "b d *grid"]]:
        """Mean and ln of the standard deviation of q(z | x)."""
        mean, log_scale = self.encoder(signal).float().chunk(2, 1)
        return mean, WIDEST * torch.tanh(log_scale / WIDEST)

    def likelihood(
        self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None = None
    ) -> Likelihood:
        """p(x | z, label)."""
        return self.family(self.decoder(latents, conditions), conditions)

    def loss(self, batch: Batch) -> Loss:
        """-ELBO in nats per dimension, with one draw per item; logs distortion and rate in bits/dim."""
        return loss_of(self.forward_pass(batch), batch, self.signal.domain)

    def forward_pass(self, batch: Batch) -> ForwardPass:
        """Encode, draw latents and decode; the loss of latents is the rate, KL(q(z | x) | p(z)) / dims."""
        mean, log_scale = self.posterior(batch.data)
        noise = randn_over_ranks(mean.shape, mean.device)
        rate = kl_to_standard_normal(mean, log_scale).mean() / batch.data[0].numel()
        latents = mean + log_scale.exp() * noise
        output = self.decoder(latents, batch.conditions)
        domain = self.signal.domain
        terms = {f"rate_{domain.unit}_per_dim": per_observed_dim(rate, batch, domain)}
        return ForwardPass(output, self.family(output, batch.conditions), rate, terms, latents)

    @torch.no_grad()
    @in_full_precision
    def latents(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """The posterior mean."""
        return self.posterior(signal)[0]

    @torch.no_grad()
    @in_full_precision
    def reconstruct(
        self,
        signal: Float[Tensor, "b c *size"],
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """Mean of p(x | z) at the posterior mean; a draw where that mean is not known in closed form."""
        return self.likelihood(self.posterior(signal)[0], conditions).mean_or_draw(generator)

    @torch.no_grad()
    @in_full_precision
    def bound_terms(
        self, batch: Batch, draws: int = 1, generator: torch.Generator | None = None
    ) -> BoundTerms:
        """Distortion and rate of each draw, and the KL divergence in closed form."""
        mean, log_scale = self.posterior(batch.data)
        distortions, rates = [], []
        for _ in range(draws):
            noise = _normal(mean, generator)
            latents = mean + log_scale.exp() * noise
            log_prob = self.likelihood(latents, batch.conditions).log_prob(batch.data).double()
            distortions.append(-sum_over_items(log_prob, batch.lengths, batch.mask))
            rates.append(log_ratio(latents, noise, log_scale).double())
        kl = kl_to_standard_normal(mean.double(), log_scale.double())
        return BoundTerms(
            distortions=torch.stack(distortions),
            log_posteriors=torch.zeros_like(torch.stack(rates)),
            draws=None,
            codes=None,
            reconstruction=self.likelihood(mean, batch.conditions).known_mean(),
            latent_prior=LatentPrior(PRIOR, torch.stack(rates), kl),
        )

    @torch.no_grad()
    def sample(self, num: int, generator: torch.Generator | None = None) -> Float[Tensor, "b c *size"]:
        """Means of p(x | z) at draws from the prior."""
        like = next(self.parameters()).new_empty(num, self.latent_dim, *self.grid)
        return self.likelihood(_normal(like, generator)).mean_or_draw(generator)


@MODELS.register
class VAEConfig(NetworksConfig):
    """Settings of a `VAE`: its networks, and the dimension of its latents at each position."""

    kind: Literal["vae"] = "vae"
    latent_dim: int = Field(default=64, ge=1)

    @classmethod
    def tiny(cls) -> VAEConfig:
        """The smallest config with every part, for tests."""
        return cls(**tiny_networks(), latent_dim=3)

    def build(self, signal: SignalSpec, conditions: Mapping[str, int] | None = None) -> VAE:
        """Build the untrained model."""
        dim = self.latent_dim
        networks = build_networks(self, signal, 2 * dim, decoded=dim, conditions=conditions)
        model = VAE(*networks, signal, dim)
        model.config = self
        return model


def kl_to_standard_normal(
    mean: Float[Tensor, "b d *grid"], log_scale: Float[Tensor, "b d *grid"]
) -> Float[Tensor, " b"]:
    """KL(N(mean, scale^2) | N(0, 1)) in nats, summed over each item."""
    kl = (mean.square() + (2 * log_scale).exp() - 1) / 2 - log_scale
    return kl.flatten(1).sum(1)


def log_ratio(
    latents: Float[Tensor, "b d *grid"], noise: Float[Tensor, "b d *grid"], log_scale: Tensor
) -> Float[Tensor, " b"]:
    """ln q(z | x) - ln p(z) of each item in nats, at z = mean + scale * noise."""
    each = (latents.square() - noise.square()) / 2 - log_scale
    return each.flatten(1).sum(1)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    # Draw on the generator's device, so that a seed gives the same numbers on every device.
    source = generator.device if generator is not None else like.device
    return torch.randn(like.shape, generator=generator, device=source).to(like)
