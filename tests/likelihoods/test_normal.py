"""The Gaussian density, against SciPy's."""

import numpy as np
import pytest
import torch
from scipy import stats

from smalti.core.errors import InputError
from smalti.core.signals import Continuous, SignalSpec
from smalti.likelihoods.normal import LEAST_LOG_SCALE, NormalConfig, NormalFamily

SPEC = SignalSpec(3, (4, 5), domain=Continuous())


def family():
    made = NormalConfig().build(SPEC)
    made.log_scale.data = torch.tensor([-1.0, 0.0, 2.0])
    return made


def test_log_prob_is_that_of_scipy():
    mean, x = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3
    scale = np.exp([-1.0, 0.0, 2.0]).reshape(3, 1, 1)
    expected = stats.norm.logpdf(x.double().numpy(), mean.double().numpy(), scale)
    received = family()(mean).log_prob(x)
    np.testing.assert_allclose(received.detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    assert received.exp().max() > 1  # a density, not a probability


def test_draws_have_its_mean_and_scale():
    generator = torch.Generator().manual_seed(0)
    likelihood = family()(torch.full((4000, 3, 4, 5), 7.0))
    drawn = likelihood.sample(generator)
    torch.testing.assert_close(drawn.mean((0, 2, 3)), torch.full((3,), 7.0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std((0, 2, 3)).log(), family().log_scale.detach(), atol=0.02, rtol=0)
    assert torch.equal(likelihood.sample(generator, temperature=0.0), likelihood.mean())


def test_the_scale_cannot_vanish():
    made = NormalFamily(1)
    made.log_scale.data.fill_(-1e9)
    assert made(torch.zeros(1, 1, 2)).log_prob(torch.zeros(1, 1, 2)).max() < -LEAST_LOG_SCALE


def test_exact_levels_are_refused():
    with pytest.raises(InputError, match="gaussian"):
        NormalConfig().build(SignalSpec(3, (4, 5), 256))
