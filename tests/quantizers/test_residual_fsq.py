"""Residual FSQ against the rule stage by stage, in NumPy."""

import numpy as np
import pytest
import torch

from smalti.core.errors import InputError
from smalti.quantizers.residual_fsq import ResidualFSQ

CASES = pytest.mark.parametrize(
    ("levels", "stages"), [((2,), 5), ((3, 4), 3), ((8, 5, 5, 5), 2), ((7, 2), 1), ((4,), 6)], ids=str
)


def latents_for(*shape: int) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def bounded_by_hand(z: np.ndarray, levels: tuple[int, ...]) -> np.ndarray:
    edge = np.array(levels) / (np.array(levels) - 1)
    return np.tanh(z / edge) * edge


def by_hand(z: np.ndarray, levels: tuple[int, ...], stages: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes `(N, stages)`, latents after each stage `(stages, N, D)` and least distance to a tie `(N,)`."""
    n = np.array(levels)
    bases = np.cumprod([1, *levels[:-1]])
    residual = bounded_by_hand(z, levels)
    z_q, codes, latents, margins = np.zeros_like(z), [], [], []
    for stage in range(stages):
        place = (residual * n.astype(float) ** stage + 1) * (n - 1) / 2
        digits = np.clip(np.round(place), 0, n - 1)
        margins.append((np.abs(np.abs(place - np.floor(place)) - 0.5) * n.astype(float) ** -stage).min(1))
        q = (2 * digits / (n - 1) - 1) * n.astype(float) ** -stage
        residual = residual - q
        z_q = z_q + q
        codes.append((digits.astype(np.int64) * bases).sum(1))
        latents.append(z_q)
    return np.stack(codes, 1), np.stack(latents), np.min(margins, 0)


@CASES
def test_codes_and_latents_stage_by_stage(levels, stages):
    latents = latents_for(500, len(levels))
    codes, z_q, margin = by_hand(latents.double().numpy(), levels, stages)
    # Between two cells float32 and float64 may round apart.
    clear = margin > 1e-6
    assert clear.mean() > 0.5
    quantizer = ResidualFSQ(levels, stages)
    quantized = quantizer(latents)
    np.testing.assert_array_equal(quantized.codes.numpy()[clear], codes[clear])
    np.testing.assert_allclose(quantized.latents.numpy()[clear], z_q[-1][clear], rtol=1e-6, atol=1e-6)
    assert quantized.loss == 0


@CASES
def test_every_stage_divides_what_is_left(levels, stages):
    """The error after n stages is at most half a cell of L^n, in every channel."""
    latents = latents_for(200, len(levels))
    n = np.array(levels, float)
    error = ResidualFSQ(levels, stages)(latents).latents.numpy() - bounded_by_hand(
        latents.double().numpy(), levels
    )
    assert (np.abs(error) <= n / (n - 1) * n**-stages + 1e-6).all()


def test_codes_are_the_numbers_of_all_combinations():
    """Two stages of 3 x 2 levels: every pair of codes is the code of its own latents, and all differ."""
    quantizer = ResidualFSQ((3, 2), 2)
    codes = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    latents = quantizer.decode(codes)
    assert len(latents.unique(dim=0)) == 36
    edge = torch.tensor([1.5, 2.0])
    assert torch.equal(quantizer.encode(torch.atanh(latents / edge) * edge), codes)


@CASES
def test_the_gradient_is_that_of_the_bound(levels, stages):
    latents = latents_for(50, len(levels)).requires_grad_()
    weights = torch.randn(50, len(levels))
    (ResidualFSQ(levels, stages)(latents).latents * weights).sum().backward()
    n = np.array(levels, float)
    slope = 1 - np.tanh(latents.detach().double().numpy() * (n - 1) / n) ** 2
    np.testing.assert_allclose(latents.grad.numpy(), weights.numpy() * slope, rtol=1e-3, atol=1e-6)


def test_dropped_stages_leave_the_centre_of_a_larger_cell():
    torch.manual_seed(0)
    quantizer = ResidualFSQ((5, 4), 3, quantizer_dropout=0.8)
    latents = latents_for(64, 2, 3)
    tokens = latents.movedim(1, -1).reshape(-1, 2).double().numpy()
    _, z_q, margin = by_hand(tokens, (5, 4), 3)
    quantized = quantizer(latents)
    got = quantized.latents.movedim(1, -1).numpy()
    expected = z_q.reshape(3, 64, 3, 2)
    clear = (margin > 1e-5).reshape(64, 3).all(1)
    matches = np.abs(got - expected).max((2, 3)) < 1e-5
    assert matches[:, clear].any(0).all()
    kept = matches[:, clear].argmax(0)
    assert set(kept) == {0, 1, 2}
    assert torch.equal(quantized.codes, quantizer.eval()(latents).codes)
    assert torch.equal(quantizer(latents).latents, quantizer.decode(quantized.codes))


def test_what_is_not_a_number_has_a_code_and_stays_seen():
    latents = torch.tensor([[torch.nan, 0.0], [torch.inf, -torch.inf]])
    quantized = ResidualFSQ((4, 5), 2)(latents)
    assert quantized.codes.tolist() == [[0 + 4 * 2, 0 + 4 * 2], [3, 3]]
    assert quantized.latents.isnan().tolist() == [[True, False], [False, False]]


def test_out_of_range():
    with pytest.raises(InputError, match=r"at most 2\*\*63"):
        ResidualFSQ((2,) * 64, 1)
    with pytest.raises(InputError, match="at most 7 of 8 levels"):
        ResidualFSQ((8, 5), 8)
    for settings in ({"levels": (1, 3)}, {"levels": ()}, {"num_quantizers": 0}, {"quantizer_dropout": 2.0}):
        with pytest.raises(InputError):
            ResidualFSQ(**settings)
