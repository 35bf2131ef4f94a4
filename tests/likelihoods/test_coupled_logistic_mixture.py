"""The coupled mixture: a distribution over whole positions, by enumeration and by sampling."""

import itertools

import pytest
import torch

from smalti.likelihoods.coupled_logistic_mixture import CoupledLogisticMixtureFamily
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.likelihoods.logistic_mixture import LogisticMixture


def likelihood_of(channels: int, levels: int, num: int = 1, scale: float = 1.0, seed: int = 0):
    family = CoupledLogisticMixtureFamily(channels, levels, components=3)
    generator = torch.Generator().manual_seed(seed)
    parameters = scale * torch.randn(1, family.num_parameters, 1, generator=generator)
    return family(parameters.expand(num, -1, -1))


def every_position(channels: int, levels: int) -> torch.Tensor:
    every = itertools.product(range(levels), repeat=channels)
    return from_levels(torch.tensor(list(every)), levels).unsqueeze(2)


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
@pytest.mark.parametrize(("channels", "levels"), [(1, 6), (2, 5), (3, 4), (4, 3)])
def test_probabilities_of_all_positions_sum_to_one(channels, levels, scale):
    every = every_position(channels, levels)
    log_prob = likelihood_of(channels, levels, len(every), scale).log_prob(every)
    torch.testing.assert_close(
        log_prob.sum(1).double().exp().sum(), torch.tensor(1.0).double(), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_each_channel_is_conditional_on_those_before_it(channel):
    """Summed over the levels of one channel, whatever those before it are, the probabilities are one."""
    every = every_position(3, 4)
    log_prob = likelihood_of(3, 4, len(every)).log_prob(every)[:, channel, 0].double().exp()
    shaped = log_prob.view(4, 4, 4)
    total = shaped.sum(channel)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-5, atol=0)
    for later in range(channel + 1, 3):
        assert torch.allclose(shaped, shaped.mean(later, keepdim=True), rtol=1e-5)


def test_samples_follow_the_joint_probabilities():
    every = every_position(2, 4)
    expected = likelihood_of(2, 4, len(every), 2.0).log_prob(every).sum(1).exp().squeeze(1)
    drawn = to_levels(likelihood_of(2, 4, 40_000, 2.0).sample(torch.Generator().manual_seed(0)), 4)
    counts = torch.bincount((drawn[:, 0] * 4 + drawn[:, 1]).flatten(), minlength=16)
    torch.testing.assert_close(counts / 40_000, expected, rtol=0, atol=0.01)


def test_with_one_channel_it_is_the_independent_mixture():
    family = CoupledLogisticMixtureFamily(1, 16, components=3)
    parameters = torch.randn(4, family.num_parameters, 5)
    logits, means, log_scales = parameters.unflatten(1, (3, 3)).unsqueeze(1).unbind(2)
    means = means + family.anchors.view(-1, 1)
    independent = LogisticMixture(logits, means, (log_scales - 2).clamp_min(-7), 16)
    x = from_levels(torch.randint(16, (4, 1, 5)), 16)
    torch.testing.assert_close(family(parameters).log_prob(x), independent.log_prob(x))


def test_the_mean_is_that_of_many_draws():
    likelihood = likelihood_of(3, 256, 20_000, 0.3)
    drawn = likelihood.sample(torch.Generator().manual_seed(0)).mean(0)
    torch.testing.assert_close(drawn, likelihood.mean()[0], rtol=0, atol=0.03)


def test_a_coefficient_moves_the_next_channel_with_the_residual():
    """By hand, one component: green's logistic is centred on mean_g + coefficient (red - mean_r)."""
    family = CoupledLogisticMixtureFamily(2, 256, components=1)
    # logit, two means, two log-scales, one coefficient
    parameters = torch.tensor([0.0, 0.2, -0.1, 1.0, 0.5, 0.7]).view(1, 6, 1)
    x = from_levels(torch.tensor([200, 90]), 256).view(1, 2, 1)
    red, green = x[0, :, 0].double()
    mean, scale = -0.1 + 0.7 * (red - 0.2), torch.tensor(0.5 - 2.0).double().exp()
    upper, lower = ((green + sign / 255 - mean) / scale for sign in (1, -1))
    expected = (upper.sigmoid() - lower.sigmoid()).log()
    torch.testing.assert_close(family(parameters).log_prob(x)[0, 1, 0].double(), expected, rtol=1e-4, atol=0)


def test_blue_moves_with_the_residuals_from_the_decoders_own_means():
    """By hand, one component: the residual of green is that from mean_g, which red has not moved."""
    family = CoupledLogisticMixtureFamily(3, 256, components=1)
    means, coefficients = [0.2, -0.1, 0.3], [0.7, -0.4, 0.5]
    parameters = torch.tensor([0.0, *means, 0.0, 0.0, 0.5, *coefficients]).view(1, 10, 1)
    x = from_levels(torch.tensor([200, 90, 120]), 256).view(1, 3, 1)
    red, green, blue = x[0, :, 0].double()
    mean = 0.3 - 0.4 * (red - 0.2) + 0.5 * (green + 0.1)
    scale = torch.tensor(0.5 - 2.0).double().exp()
    upper, lower = ((blue + sign / 255 - mean) / scale for sign in (1, -1))
    expected = (upper.sigmoid() - lower.sigmoid()).log()
    torch.testing.assert_close(family(parameters).log_prob(x)[0, 2, 0].double(), expected, rtol=1e-4, atol=0)
