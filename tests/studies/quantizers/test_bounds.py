"""Distortion-rate functions in closed form, and k-means where its limit is known."""

import math

import numpy as np
import pytest
import torch

from smalti.studies.quantizers.bounds import gauss_markov_covariance, lloyd_distortion, shannon_distortion


@pytest.mark.parametrize("bits", [0.0, 1.0, 3.5, 12.0])
@pytest.mark.parametrize("dimension", [1, 4])
def test_independent_components(dimension, bits):
    distortion = shannon_distortion(gauss_markov_covariance(dimension, 0.0), bits)
    assert distortion == pytest.approx(2 ** (-2 * bits / dimension))


@pytest.mark.parametrize("correlation", [0.2, 0.9])
def test_two_components_at_low_and_at_high_rates(correlation):
    covariance = gauss_markov_covariance(2, correlation)
    large, small = 1 + correlation, 1 - correlation  # the eigenvalues
    threshold = 0.5 * math.log2(large / small)  # the second component is used above this rate
    below, above = 0.5 * threshold, threshold + 1.5
    expected = (large * 2 ** (-2 * below) + small) / 2
    assert shannon_distortion(covariance, below) == pytest.approx(expected)
    assert shannon_distortion(covariance, above) == pytest.approx(math.sqrt(large * small) * 2**-above)
    assert shannon_distortion(covariance, threshold) == pytest.approx(small)


def test_rate_of_the_water_level():
    covariance = gauss_markov_covariance(8, 0.8)
    eigenvalues = np.linalg.eigvalsh(covariance)
    level = 0.3
    bits = np.maximum(0, 0.5 * np.log2(eigenvalues / level)).sum()
    assert shannon_distortion(covariance, bits) == pytest.approx(np.minimum(eigenvalues, level).mean())


def test_covariance_of_a_gauss_markov_process():
    np.testing.assert_allclose(
        gauss_markov_covariance(3, 0.5), [[1, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 1]]
    )


@pytest.mark.parametrize(("bits", "expected"), [(0, 1.0), (1, 1 - 2 / math.pi), (2, 0.1175)])
def test_k_means_of_a_scalar_reaches_the_best_scalar_quantizer(bits, expected):
    """Max 1960, table I."""
    train, test = torch.randn(2, 20_000, 1, generator=torch.Generator().manual_seed(0))
    distortion = lloyd_distortion(train, test, float(bits))
    assert distortion == pytest.approx(expected, rel=0.03)


def test_k_means_has_a_limit():
    train, test = torch.zeros(100, 1), torch.zeros(10, 1)
    assert lloyd_distortion(train, test, 7.0) is None
