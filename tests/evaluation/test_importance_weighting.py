"""Bounds from draws, against NumPy."""

import math

import numpy as np
import pytest
import torch

from smalti.evaluation.bounds import average_bound, importance_weighted_bound

DISTORTIONS = np.array([[3.0, 1000.0, 0.5], [5.0, 1003.0, 0.5], [4.0, 900.0, 0.5], [3.5, 2000.0, 0.5]])
RATES = np.array([[0.5, -20.0, 1.0], [-1.0, -20.0, 2.0], [0.0, 40.0, 3.0], [2.0, -500.0, 4.0]])
"""Of 4 draws of 3 items; of the second, weights differ by factors that no float holds."""


def collected(draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(RATES[:draws]), torch.tensor(DISTORTIONS[:draws])


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_the_plain_bound_is_the_average(draws):
    bound = average_bound(*collected(draws))
    np.testing.assert_allclose(bound.distortion, DISTORTIONS[:draws].mean(0), rtol=1e-12)
    np.testing.assert_allclose(bound.rate, RATES[:draws].mean(0), rtol=1e-12)
    np.testing.assert_allclose(bound.log_prob, -(DISTORTIONS + RATES)[:draws].mean(0), rtol=1e-12)


@pytest.mark.parametrize("draws", [2, 4])
def test_the_weighted_bound_is_the_logarithm_of_the_mean_weight(draws):
    bound = importance_weighted_bound(*collected(draws))
    for item in range(3):
        # As the definition has it, after taking out a common factor that floats cannot hold.
        logs = -(DISTORTIONS + RATES)[:draws, item]
        weights = np.array([math.exp(value - logs.max()) for value in logs])
        assert bound.log_prob[item].item() == pytest.approx(math.log(weights.mean()) + logs.max(), rel=1e-12)
        distortion = (weights * DISTORTIONS[:draws, item]).sum() / weights.sum()
        assert bound.distortion[item].item() == pytest.approx(distortion, rel=1e-12)


def test_the_weighted_bound_is_no_looser_and_equal_draws_leave_it_as_it_is():
    weighted = importance_weighted_bound(*collected(4))
    assert (weighted.log_prob > average_bound(*collected(4)).log_prob + 0.1).all()
    bound = importance_weighted_bound(torch.full((3, 1), 2.0), torch.full((3, 1), 7.0))
    assert bound.log_prob.item() == pytest.approx(-9, rel=1e-6)
    assert bound.distortion.item() == pytest.approx(7, rel=1e-6)


def test_each_item_has_its_own():
    whole = importance_weighted_bound(*collected(4))
    one = importance_weighted_bound(torch.tensor(RATES[:, 1:2]), torch.tensor(DISTORTIONS[:, 1:2]))
    assert whole.log_prob[1] == one.log_prob[0]
    assert whole.rate[1] == one.rate[0]
