"""Units and sums of log-probabilities, against NumPy and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.core.units import bits_per_dim, log_mean_exp, sum_over_items


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
    st.sampled_from([(), (3,), (2, 3)]),
    st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_the_sum_over_an_item_ends_with_it(lengths, others, seed):
    elements = np.random.default_rng(seed).normal(size=(len(lengths), 2, 7, *others)).astype(np.float32)
    received = sum_over_items(torch.from_numpy(elements), torch.tensor(lengths))
    expected = [item[:, :length].sum() for item, length in zip(elements, lengths, strict=True)]
    np.testing.assert_allclose(received.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 1, 5), (3, 3, 4, 4)])
def test_without_lengths_all_of_it_counts(shape):
    elements = torch.randn(shape)
    torch.testing.assert_close(sum_over_items(elements, None), elements.flatten(1).sum(1))
    full = torch.full((shape[0],), shape[2])
    torch.testing.assert_close(sum_over_items(elements, full), elements.flatten(1).sum(1))


def test_bits_per_dim():
    nats = torch.tensor([0.0, 3072 * math.log(256), 8 * math.log(2)])
    torch.testing.assert_close(bits_per_dim(nats, 3072), torch.tensor([0.0, 8.0, 8 / 3072]))
    assert bits_per_dim(8 * math.log(2), 4) == pytest.approx(2)


def test_the_mean_of_weights_that_no_float_holds():
    """Weights e^1000 and e^1000 / 3 have the mean e^1000 * 2 / 3."""
    logs = torch.tensor([[1000.0, -2000.0], [1000.0 - math.log(3), -2000.0]], dtype=torch.float64)
    expected = torch.tensor([1000 + math.log(2 / 3), -2000.0], dtype=torch.float64)
    torch.testing.assert_close(log_mean_exp(logs), expected, rtol=1e-14, atol=0)
