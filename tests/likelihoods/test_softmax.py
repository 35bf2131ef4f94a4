"""`Categorical` with its logits item by item and in place, against torch's cross entropy."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from smalti.likelihoods.categorical import Categorical
from smalti.likelihoods.levels import from_levels
from tests.models.memory import Alive


def logits_and_levels(size: tuple[int, ...], dtype: torch.dtype, scale: float = 3.0, num_levels: int = 7):
    """Logits `(3, 2, L, *size)` that ask for a gradient, and a level of each element."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(3, 2, num_levels, *size, generator=generator, dtype=torch.float64)
    level = torch.randint(num_levels, (3, 2, *size), generator=generator)
    return logits.to(dtype).requires_grad_(), level


class TestSoftmax:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("scale", [0.0, 3.0, 1e4])
    @pytest.mark.parametrize("size", [(5,), (3, 4), (2, 3, 4), (1, 1)])
    def test_value_and_gradient(self, size, scale, dtype):
        logits, level = logits_and_levels(size, dtype, scale)
        log_prob = Categorical(logits).log_prob(from_levels(level, 7))
        expected = -F.cross_entropy(logits.movedim(2, 1), level, reduction="none")
        torch.testing.assert_close(log_prob, expected)
        assert log_prob.dtype == dtype
        weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        (ours,) = torch.autograd.grad((weights * log_prob).sum(), logits)
        (theirs,) = torch.autograd.grad((weights * expected).sum(), logits)
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
        assert ours.any()

    @pytest.mark.parametrize("size", [(3,), (2, 2)])
    def test_gradient_numerically(self, size):
        """torch's own check goes backward more than once, which is refused here."""
        logits, level = logits_and_levels(size, torch.float64)
        weights = torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

        def total(given: torch.Tensor) -> torch.Tensor:
            return (weights * Categorical(given).log_prob(from_levels(level, 7))).sum()

        (gradient,) = torch.autograd.grad(total(logits), logits)
        steps = 1e-5 * torch.eye(logits.numel(), dtype=torch.float64).view(-1, *logits.shape)
        with torch.no_grad():
            slopes = [(total(logits + step) - total(logits - step)) / 2e-5 for step in steps]
        torch.testing.assert_close(gradient.flatten(), torch.stack(slopes), rtol=1e-6, atol=1e-8)

    def test_logits_in_another_layout(self):
        """As a decoder gives them where channels come last, or one for all."""
        logits, level = logits_and_levels((3, 4), torch.float32)
        signal = from_levels(level, 7)
        (expected,) = torch.autograd.grad(Categorical(logits).log_prob(signal).sum(), logits)
        moved = logits.detach().movedim(2, -1).contiguous().movedim(-1, 2).requires_grad_()
        assert not moved.is_contiguous()
        (gradient,) = torch.autograd.grad(Categorical(moved).log_prob(signal).sum(), moved)
        torch.testing.assert_close(gradient, expected)
        one = logits.detach()[:1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(
            Categorical(one.expand_as(logits)).log_prob(signal).mul(torch.ones(3, 2, 3, 4)).sum(), one
        )
        each = [
            torch.autograd.grad(Categorical(one).log_prob(item).sum(), one)[0] for item in signal.split(1)
        ]
        torch.testing.assert_close(gradient, sum(each))

    def test_the_logits_stay_as_they_are(self):
        logits, level = logits_and_levels((3, 4), torch.float32)
        before = logits.detach().clone()
        Categorical(logits).log_prob(from_levels(level, 7)).sum().backward()
        assert torch.equal(logits, before)
        with torch.no_grad():
            Categorical(logits).log_prob(from_levels(level, 7))
        assert torch.equal(logits, before)

    def test_without_a_gradient(self):
        logits, level = logits_and_levels((3, 4), torch.float32)
        signal = from_levels(level, 7)
        expected = Categorical(logits).log_prob(signal)
        with torch.no_grad():
            log_prob = Categorical(logits).log_prob(signal)
        assert not log_prob.requires_grad
        assert torch.equal(log_prob, expected)
        assert not Categorical(logits.detach()).log_prob(signal).requires_grad

    def test_a_second_backward_is_refused(self):
        logits, level = logits_and_levels((3, 4), torch.float32)
        total = Categorical(logits).log_prob(from_levels(level, 7)).sum()
        total.backward(retain_graph=True)
        first = logits.grad.clone()
        with pytest.raises(RuntimeError, match="only once"):
            total.backward()
        assert torch.equal(logits.grad, first)
        total = Categorical(logits).log_prob(from_levels(level, 7)).square().sum()
        (gradient,) = torch.autograd.grad(total, logits, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()

    def test_one_tensor_of_the_logits_size_is_kept_and_none_when_checkpointed(self):
        logits, level = logits_and_levels((16, 16), torch.float32, num_levels=256)
        signal = from_levels(level, 256)
        size = logits.numel() * 4

        def log_prob(given: torch.Tensor) -> torch.Tensor:
            return Categorical(given).log_prob(signal)

        expected = None
        for run, kept in ((log_prob, 1), (lambda given: checkpoint(log_prob, given, use_reentrant=False), 0)):
            with Alive() as alive:
                total = run(logits).mul(2).sum()
                assert kept * size <= alive.now() < (kept + 0.1) * size
                (gradient,) = torch.autograd.grad(total, logits)
                # One item's scratch beside it: the gradient is made where the probabilities were.
                assert alive.peak < 2 * size
            expected = gradient if expected is None else expected
            assert torch.equal(gradient, expected)
