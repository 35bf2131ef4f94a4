"""The VAE: its bounds and its loss against integrals over the latents of tiny models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.results import Bound
from smalti.core.signals import SignalSpec
from smalti.encoders.conv import ConvEncoderConfig
from smalti.evaluation.bounds import measure
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.models.vae import PRIOR, VAE, WIDEST, VAEConfig
from smalti.priors.uniform import UniformPrior
from tests.models.tiny import LIKELIHOODS, all_signals, exaggerate, gradients, signals

NODES = torch.linspace(-9, 9, 1801, dtype=torch.float64)
LOG_NORMAL = -NODES.square() / 2 - math.log(2 * math.pi) / 2 + math.log(NODES[1] - NODES[0])
"""ln of the mass of a standard normal around each node: sums over the nodes are integrals."""


SMALLEST = SignalSpec(1, (4,), levels=4)


def vae(spec: SignalSpec = SMALLEST, latent_dim: int = 1, encoder_times: float = 3, **parts) -> VAE:
    """A model whose latents matter, and whose posterior is neither its prior nor the true one."""
    torch.manual_seed(0)
    model = VAEConfig.tiny().model_copy(update={"latent_dim": latent_dim, **parts}).build(spec)
    exaggerate(model.encoder, times=encoder_times)
    exaggerate(model.decoder)
    return model.eval()


def log_probs_at(model: VAE, latents: Tensor, x: Tensor) -> Tensor:
    """ln p(x | z) of every signal at every latent, `(Z, B)`, from the likelihood's levels one by one."""
    spec = model.signal
    levels = torch.linspace(-1, 1, spec.levels, dtype=torch.float64)
    likelihood = model.likelihood(latents)
    whole = torch.ones(len(latents), spec.channels, *spec.size, dtype=torch.float64)
    table = torch.stack([likelihood.log_prob(level * whole) for level in levels], -1)
    chosen = torch.nn.functional.one_hot((x.unsqueeze(-1) - levels).abs().argmin(-1), spec.levels).double()
    return torch.einsum("zal,bal->zb", table.flatten(1, -2), chosen.flatten(1, -2))


@torch.no_grad()
def evidence(model: VAE, x: Tensor) -> Tensor:
    """ln p(x), by integration over all latents; the grid of the latents has one position."""
    dim = model.config.latent_dim
    nodes, log_masses = NODES[:: 1 if dim == 1 else 12], LOG_NORMAL[:: 1 if dim == 1 else 12]
    log_masses = log_masses - log_masses.logsumexp(0)
    latents = torch.cartesian_prod(*[nodes] * dim).view(-1, dim, *model.grid)
    log_prior = torch.cartesian_prod(*[log_masses] * dim).view(-1, dim).sum(1)
    return (log_probs_at(model, latents, x) + log_prior.unsqueeze(1)).logsumexp(0)


@dataclass(frozen=True)
class Weights:
    """Result of a draw of the posterior at every node of its noise; for one signal."""

    log_prob: Tensor
    log_weight: Tensor
    masses: Tensor

    @classmethod
    def of(cls, model: VAE, x: Tensor) -> Weights:
        """Of a signal `(1, C, *size)` and a model with one latent."""
        mean, log_scale = model.posterior(x)
        posterior = Normal(mean.flatten(), log_scale.exp().flatten())
        z = posterior.mean + posterior.scale * NODES
        log_prob = log_probs_at(model, z.view(-1, 1, *model.grid), x)[:, 0]
        log_weight = log_prob + Normal(0, 1).log_prob(z) - posterior.log_prob(z)
        return cls(log_prob, log_weight, LOG_NORMAL.exp())

    @property
    def elbo(self) -> Tensor:
        return (self.masses * self.log_weight).sum()

    @property
    def of_two_draws(self) -> Tensor:
        every, masses = self.log_weight[::3], self.masses[::3] / self.masses[::3].sum()
        bounds = torch.logaddexp(every.unsqueeze(0), every.unsqueeze(1)) - math.log(2)
        return masses @ bounds @ masses


def repeated(model: VAE, x: Tensor, times: int, draws: int, seed: int = 0) -> dict[str, Bound]:
    """Bounds of one signal from fresh draws, so often."""
    batch = Batch(x.expand(times, *x.shape[1:]))
    return measure(model, batch, draws=draws, generator=torch.Generator().manual_seed(seed)).bounds


def assert_mean(values: Tensor, expected: Tensor, standard_errors: float = 4) -> None:
    error = values.std() / math.sqrt(len(values))
    assert error < 0.1
    assert (values.mean() - expected).abs() < standard_errors * error + 1e-6


@pytest.mark.usefixtures("double")
class TestEvidence:
    @pytest.mark.parametrize("latent_dim", [1, 2])
    @LIKELIHOODS
    def test_all_signals_have_probability_one_and_their_bounds_less(self, likelihood, latent_dim):
        model = vae(likelihood=likelihood, latent_dim=latent_dim)
        x = all_signals(model.signal)
        assert len(x) == 256
        exact = evidence(model, x)
        torch.testing.assert_close(exact.exp().sum(), torch.tensor(1.0), rtol=1e-5, atol=0)
        bounds = measure(model, Batch(x), draws=200, generator=torch.Generator().manual_seed(0)).bounds
        elbo, weighted = (bounds[name].log_prob for name in (PRIOR, f"{PRIOR}, 200 draws"))
        assert elbo.exp().sum() < 0.9
        assert (elbo - exact).mean() < -0.3
        assert (elbo - exact).mean() + 0.1 < (weighted - exact).mean() < 0


@pytest.mark.usefixtures("double")
class TestBounds:
    @LIKELIHOODS
    @torch.no_grad()
    def test_elbo_is_the_integral_over_the_posterior(self, likelihood):
        model = vae(likelihood=likelihood)
        for x in signals(model.signal, 4).split(1):
            weights = Weights.of(model, x)
            elbo = repeated(model, x, 4000, draws=1)[PRIOR]
            assert_mean(elbo.log_prob, weights.elbo)
            assert_mean(elbo.distortion, -(weights.masses * weights.log_prob).sum())
            assert weights.elbo < evidence(model, x) - 0.1

    @torch.no_grad()
    def test_many_draws_make_the_elbo_certain(self):
        model = vae()
        x = signals(model.signal, 4)
        bound = measure(model, Batch(x), draws=1000, generator=torch.Generator().manual_seed(0)).bounds[PRIOR]
        expected = torch.stack([Weights.of(model, one).elbo for one in x.split(1)])
        torch.testing.assert_close(bound.log_prob, expected, rtol=0, atol=0.12)

    @LIKELIHOODS
    @torch.no_grad()
    def test_of_two_draws_is_the_integral_over_both(self, likelihood):
        model = vae(likelihood=likelihood)
        for x in signals(model.signal, 4).split(1):
            weights = Weights.of(model, x)
            bounds = repeated(model, x, 4000, draws=2)
            assert_mean(bounds[f"{PRIOR}, 2 draws"].log_prob, weights.of_two_draws)
            assert weights.elbo + 0.02 < weights.of_two_draws < evidence(model, x) - 0.02

    @torch.no_grad()
    def test_more_draws_come_nearer_to_the_evidence_from_below(self):
        model = vae(encoder_times=1)
        for x in signals(model.signal, 2).split(1):
            exact, last = evidence(model, x), Weights.of(model, x).elbo
            # More draws vary less, so that fewer repetitions give their mean.
            for draws, num in ((2, 2000), (5, 2000), (50, 500)):
                values = repeated(model, x, num, draws)[f"{PRIOR}, {draws} draws"].log_prob
                error = values.std() / math.sqrt(len(values))
                assert last < values.mean() < exact + 4 * error
                last = values.mean()
            values = repeated(model, x, 20, 2000)[f"{PRIOR}, 2000 draws"].log_prob
            assert values.mean().item() == pytest.approx(exact.item(), abs=0.01)

    @torch.no_grad()
    def test_parts_of_the_weighted_bound(self):
        """Its distortion is that of the draws by their weights: near the true posterior's for many draws."""
        model = vae()
        (x,) = signals(model.signal, 1).split(1)
        weights = Weights.of(model, x)
        true_posterior = (weights.log_weight + weights.masses.log()).softmax(0)
        bound = repeated(model, x, 50, draws=1000)[f"{PRIOR}, 1000 draws"]
        expected = -(true_posterior * weights.log_prob).sum()
        assert bound.distortion.mean().item() == pytest.approx(expected.item(), abs=0.05)
        torch.testing.assert_close(bound.rate + bound.distortion, -bound.log_prob)

    @torch.no_grad()
    def test_the_rate_is_the_divergence_from_the_prior(self):
        model = vae(SignalSpec(3, (8, 4)), latent_dim=5)
        x = signals(model.signal, 6)
        mean, log_scale = model.posterior(x)
        assert mean.shape == log_scale.shape == (6, 5, 2, 1)
        divergence = kl_divergence(Normal(mean, log_scale.exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
        measured = measure(model, Batch(x), draws=3)
        torch.testing.assert_close(measured.bounds[PRIOR].rate, divergence)
        assert (divergence > 0.1).all()
        torch.testing.assert_close(measured.reconstruction, model.likelihood(mean).mean())
        assert measured.codes is None

    @torch.no_grad()
    def test_by_hand_from_the_same_draws(self):
        model = vae(SignalSpec(2, (8,), 16), latent_dim=3)
        x = signals(model.signal, 5)
        measured = measure(model, Batch(x), draws=4, generator=torch.Generator().manual_seed(3)).bounds
        generator = torch.Generator().manual_seed(3)
        mean, log_scale = model.posterior(x)
        posterior, prior = Normal(mean, log_scale.exp()), Normal(0.0, 1.0)
        log_probs, log_ratios = [], []
        for _ in range(4):
            z = mean + log_scale.exp() * torch.randn(mean.shape, generator=generator)
            log_probs.append(model.likelihood(z).log_prob(x).flatten(1).sum(1))
            log_ratios.append((posterior.log_prob(z) - prior.log_prob(z)).flatten(1).sum(1))
        log_prob, log_ratio = torch.stack(log_probs), torch.stack(log_ratios)
        torch.testing.assert_close(measured[PRIOR].distortion, -log_prob.mean(0))
        weighted = (log_prob - log_ratio).logsumexp(0) - math.log(4)
        torch.testing.assert_close(measured[f"{PRIOR}, 4 draws"].log_prob, weighted)

    @torch.no_grad()
    def test_priors_over_codes_change_nothing(self):
        model = vae()
        batch = Batch(signals(model.signal))
        bounds = measure(model, batch, [UniformPrior(3, 1, (1,))]).bounds
        assert list(bounds) == [PRIOR]


@pytest.mark.usefixtures("double")
class TestLoss:
    @LIKELIHOODS
    def test_value_and_gradient_by_hand(self, likelihood):
        model = vae(SignalSpec(3, (8, 4), 16), latent_dim=2, likelihood=likelihood)
        x = signals(model.signal, 5)
        torch.manual_seed(7)
        loss = model.loss(Batch(x))
        torch.manual_seed(7)
        mean, log_scale = model.encoder(x).chunk(2, 1)
        posterior = Normal(mean, (5 * torch.tanh(log_scale / 5)).exp())
        z = posterior.mean + posterior.scale * torch.randn(1, *mean.shape)[0]
        log_prob = model.family(model.decoder(z)).log_prob(x)
        distortion, rate = -log_prob.sum() / 5, kl_divergence(posterior, Normal(0.0, 1.0)).sum() / 5
        expected = (distortion + rate) / model.signal.dims
        torch.testing.assert_close(loss.total, expected)
        bits = 1 / (model.signal.dims * math.log(2))
        torch.testing.assert_close(loss.terms["distortion_bits_per_dim"], (distortion * bits).detach())
        torch.testing.assert_close(loss.terms["rate_bits_per_dim"], (rate * bits).detach())
        ours, by_hand = gradients(model, loss.total), gradients(model, expected)
        for name, gradient in by_hand.items():
            torch.testing.assert_close(ours[name], gradient, msg=lambda m, n=name: f"{n}: {m}")
            assert gradient.any(), name

    def test_its_expectation_and_that_of_its_gradient_are_integrals(self):
        """Without what the draws of a step leave to chance: the posterior's mean and scale learn too."""
        model = vae(likelihood=CategoricalConfig())
        (x,) = signals(model.signal, 1).split(1)
        exact = -Weights.of(model, x).elbo / model.signal.dims
        expected = gradients(model, exact)
        torch.manual_seed(0)
        totals, found = [], []
        for _ in range(30):
            total = model.loss(Batch(x.expand(1000, 1, 4))).total
            totals.append(total.detach())
            found.append(gradients(model, total))
        assert_mean(torch.stack(totals), exact.detach())
        for name, gradient in expected.items():
            drawn = torch.stack([one[name] for one in found])
            error = (drawn.std(0) / math.sqrt(len(drawn))).norm()
            assert error < 0.1 * gradient.norm(), name
            assert (drawn.mean(0) - gradient).norm() < 3 * error, name

    def test_a_few_steps_lower_it(self):
        model = vae(SignalSpec(1, (8,), 4), latent_dim=2)
        batch = Batch(signals(model.signal, 4))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(150):
            loss = model(batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-20:]) < sum(losses[:20]) - 20 * 0.2

    def test_ranks_share_the_draws_of_one_process(self, monkeypatch: pytest.MonkeyPatch):
        model = vae()
        x = signals(model.signal, 6)
        torch.manual_seed(3)
        whole = model.loss(Batch(x)).total
        shares = []
        for rank, part in enumerate(x.split(2)):
            monkeypatch.setattr("smalti.nn.collectives.rank_and_world", lambda rank=rank: (rank, 3))
            torch.manual_seed(3)
            shares.append(model.loss(Batch(part)).total)
        torch.testing.assert_close(torch.stack(shares).mean(), whole)
        assert not torch.isclose(shares[0], shares[1], rtol=1e-3)


class TestPosterior:
    def test_an_encoder_gone_wild_gives_a_finite_loss(self):
        model = vae()
        exaggerate(model.encoder, times=20)
        x = signals(model.signal, 8)
        assert model.encoder(x).abs().max() > 100
        _, log_scale = model.posterior(x)
        assert log_scale.abs().max() <= WIDEST
        loss = model.loss(Batch(x))
        loss.total.backward()
        assert loss.total.isfinite()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())

    def test_a_small_logarithm_of_the_scale_is_left_as_it_is(self):
        model = vae()
        model.encoder.forward = lambda signal: torch.tensor([[[0.3], [-0.2]]])
        mean, log_scale = model.posterior(signals(model.signal, 1))
        assert mean.item() == pytest.approx(0.3)
        assert log_scale.item() == pytest.approx(-0.2, abs=2e-4)


class TestSample:
    @pytest.mark.parametrize(
        "spec", [SignalSpec(1, (4,), 4), SignalSpec(3, (8, 12)), SignalSpec(2, (4, 8, 4), 16)]
    )
    def test_shape_range_and_generator(self, spec: SignalSpec):
        model = vae(spec, latent_dim=3)
        one, same, other = (model.sample(5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert one.shape == (5, spec.channels, *spec.size)
        assert one.abs().max() <= 1 + 1e-6
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert model.sample(2).shape == (2, spec.channels, *spec.size)

    @torch.no_grad()
    @pytest.mark.usefixtures("double")
    def test_is_of_the_prior(self):
        model = vae()
        drawn = model.sample(20_000, torch.Generator().manual_seed(0))
        means = model.likelihood(NODES.view(-1, 1, 1)).mean()
        expected = torch.einsum("z,zcn->cn", LOG_NORMAL.exp(), means)
        torch.testing.assert_close(drawn.mean(0), expected, rtol=0, atol=0.01)
        spread = (torch.einsum("z,zcn->cn", LOG_NORMAL.exp(), means.square()) - expected.square()).sqrt()
        torch.testing.assert_close(drawn.std(0), spread, rtol=0.05, atol=0)
        assert spread.max() > 0.05


class TestParts:
    @pytest.mark.parametrize(
        ("size", "strides", "grid"),
        [((8, 16), (2, 2), (2, 4)), ((6, 9), (3,), (2, 3)), ((20,), (4, 5), (1,))],
    )
    @LIKELIHOODS
    def test_sizes_that_are_not_square(
        self, likelihood, size: tuple[int, ...], strides: tuple[int, ...], grid: tuple[int, ...]
    ):
        encoder = ConvEncoderConfig.tiny().model_copy(update={"strides": strides})
        model = vae(SignalSpec(3, size), latent_dim=2, encoder=encoder, likelihood=likelihood)
        x = signals(model.signal, 2)
        assert model.grid == grid
        assert model.loss(Batch(x)).total.isfinite()
        assert model.reconstruct(x).shape == x.shape
        assert measure(model, Batch(x), draws=2).reconstruction.shape == x.shape

    @pytest.mark.parametrize(
        "build", [lambda: vae(SignalSpec(3, (8, 10))), lambda: vae(SignalSpec(1, (6,), 4))]
    )
    def test_a_size_that_does_not_divide(self, build: Callable[[], VAE]):
        with pytest.raises(InputError, match=r"multiples of 4 .* received"):
            build()

    @torch.no_grad()
    def test_a_batch_gives_what_each_item_gives_alone(self):
        model = vae(SignalSpec(3, (8, 8)), latent_dim=3)
        x = signals(model.signal, 5)
        whole = measure(model, Batch(x)).bounds[PRIOR].rate
        reconstructed = model.reconstruct(x)
        for item in range(5):
            alone = Batch(x[[item]])
            torch.testing.assert_close(
                measure(model, alone).bounds[PRIOR].rate[0], whole[item], rtol=1e-5, atol=0
            )
            torch.testing.assert_close(model.reconstruct(alone.data)[0], reconstructed[item])

    def test_a_config_survives_json(self):
        config = VAEConfig(latent_dim=7, likelihood=CategoricalConfig())
        assert VAEConfig.model_validate_json(config.model_dump_json()) == config
