"""Entropies of soft assignments to sign codes, against the enumeration of all codes."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from smalti.quantizers.entropies import EntropyPenalty, batch_entropy, bit_entropies, mean_joint

BITS = pytest.mark.parametrize("bits", [1, 2, 3, 5])


def corners(bits: int) -> np.ndarray:
    """All codes `(2^L, L)` of -1 and 1 in the order of their numbers; the first channel is the lowest bit."""
    return np.array([c[::-1] for c in itertools.product((-1, 1), repeat=bits)], np.float64)


def by_enumeration(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Softmax over all codes of a.c / 2, `(N, 2^L)`, and the entropy of each token."""
    scores = logits @ corners(logits.shape[1]).T / 2
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p, entropy(p)


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)


def logits_for(bits: int, num: int = 7, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(num, bits, generator=torch.Generator().manual_seed(0))


@BITS
@pytest.mark.parametrize("scale", [0.1, 2.0, 100.0])
def test_entropy_of_a_token_is_that_over_all_codes(bits, scale):
    logits = logits_for(bits, scale=scale)
    expected = by_enumeration(logits.double().numpy())[1]
    np.testing.assert_allclose(bit_entropies(logits).sum(1).numpy(), expected, rtol=1e-5, atol=1e-7)


@BITS
def test_mean_of_the_joint_distribution(bits):
    logits = logits_for(bits)
    expected = by_enumeration(logits.double().numpy())[0].mean(0)
    np.testing.assert_allclose(mean_joint(logits).numpy(), expected, rtol=1e-5)


@BITS
def test_entropy_of_the_batch_is_that_over_all_codes(bits):
    logits = logits_for(bits)
    expected = entropy(by_enumeration(logits.double().numpy())[0].mean(0))
    np.testing.assert_allclose(batch_entropy(logits, bits).item(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("bits", "group_bits", "sizes"), [(5, 2, (1, 2, 2)), (6, 4, (3, 3)), (4, 1, (1,) * 4)]
)
def test_groups_of_bits(bits, group_bits, sizes):
    """The sum over groups; at least the entropy of all bits, and equal to it for a batch of one token."""
    logits = logits_for(bits)
    groups = np.split(logits.double().numpy(), np.cumsum(sizes)[:-1], axis=1)
    expected = sum(entropy(by_enumeration(group)[0].mean(0)) for group in groups)
    grouped = batch_entropy(logits, group_bits).item()
    np.testing.assert_allclose(grouped, expected, rtol=1e-5)
    assert grouped > batch_entropy(logits, bits).item()
    one = logits[:1]
    torch.testing.assert_close(batch_entropy(one, group_bits), bit_entropies(one).sum())


@BITS
def test_gradients_by_finite_differences(bits):
    logits = logits_for(bits, num=4).double().requires_grad_()
    assert torch.autograd.gradcheck(mean_joint, logits)
    assert torch.autograd.gradcheck(lambda a: batch_entropy(a, max(1, bits - 1)), logits)
    assert torch.autograd.gradcheck(bit_entropies, logits)


class Largest(TorchDispatchMode):
    """Notes the largest number of elements of a result."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else [result]
        self.numel = max([self.numel, *(each.numel() for each in made if isinstance(each, torch.Tensor))])
        return result


def test_memory_does_not_grow_with_the_codes():
    """36 bits in groups of 9 need no more than the logits and N x 2^5 probabilities."""
    logits = logits_for(36, num=64).requires_grad_()
    with Largest() as largest:
        (bit_entropies(logits).sum() - batch_entropy(logits, 9)).backward()
    assert largest.numel == 64 * 36
    assert logits.grad.all()


def test_saturated_bits_have_finite_gradients():
    logits = torch.tensor([[400.0, -400.0, 0.0], [400.0, 400.0, 1.0]], requires_grad=True)
    (bit_entropies(logits).sum() - batch_entropy(logits, 3)).backward()
    assert logits.grad.isfinite().all()
    assert bit_entropies(torch.zeros(())).item() == pytest.approx(math.log(2))


def test_autocast_does_not_round():
    logits = logits_for(6, num=50).requires_grad_()
    (expected,) = torch.autograd.grad(batch_entropy(logits, 6), logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = batch_entropy(logits, 6)
        (gradient,) = torch.autograd.grad(value, logits)
    assert torch.equal(value, batch_entropy(logits, 6))
    assert torch.equal(gradient, expected)


def test_the_weight_falls_linearly_in_training():
    penalty = EntropyPenalty(0.5, start=3.0, anneal_steps=4, group_bits=2)
    logits = logits_for(2)[None]

    def weight() -> float:
        loss, terms = penalty(logits)
        return (loss / (terms["code_entropy"] - terms["batch_entropy"])).item()

    assert [weight() for _ in range(6)] == pytest.approx([1.5, 1.25, 1.0, 0.75, 0.5, 0.5])
    other = EntropyPenalty(0.5, start=3.0, anneal_steps=12, group_bits=2)
    other.load_state_dict(penalty.state_dict())
    penalty = other.eval()
    assert [weight() for _ in range(2)] == pytest.approx([1.0, 1.0])
    penalty = EntropyPenalty(0.5, start=3.0, anneal_steps=0, group_bits=2)
    assert weight() == pytest.approx(0.5)
