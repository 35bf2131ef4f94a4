"""What the interfaces compute themselves: sums over items that end before their batch, say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.core.conditions import Conditions
from smalti.core.results import summed


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
    st.sampled_from([(), (3,), (2, 3)]),
    st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_the_sum_over_an_item_ends_with_it(lengths, others, seed):
    elements = np.random.default_rng(seed).normal(size=(len(lengths), 2, 7, *others)).astype(np.float32)
    received = summed(torch.from_numpy(elements), torch.tensor(lengths))
    expected = [item[:, :length].sum() for item, length in zip(elements, lengths, strict=True)]
    np.testing.assert_allclose(received.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 1, 5), (3, 3, 4, 4)])
def test_without_lengths_all_of_it_counts(shape):
    elements = torch.randn(shape)
    torch.testing.assert_close(summed(elements, None), elements.flatten(1).sum(1))
    full = torch.full((shape[0],), shape[2])
    torch.testing.assert_close(summed(elements, full), elements.flatten(1).sum(1))


def test_conditions_keep_what_there_is_on_another_device():
    both = Conditions(torch.tensor([1, -1]), torch.randn(2, 3, 4))
    for conditions in (both, Conditions(), Conditions(both.labels), Conditions(local=both.local)):
        moved = conditions.to(torch.device("meta"))
        for name in ("labels", "local"):
            before, after = getattr(conditions, name), getattr(moved, name)
            assert (before is None) == (after is None)
            assert after is None or (after.device.type, after.shape) == ("meta", before.shape)


@pytest.mark.parametrize("first", [0, 1, 3])
def test_conditions_of_the_items_from_one_on(first):
    both = Conditions(torch.tensor([1, -1, 2]), torch.randn(3, 3, 4))
    part = both.part(first)
    assert torch.equal(part.labels, both.labels[first:])
    assert torch.equal(part.local, both.local[first:])
    assert Conditions().part(first) == Conditions()
