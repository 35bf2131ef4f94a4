"""Finite scalar quantization against NumPy: the bound, the rounding and the arithmetic of indices."""

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.quantizers.fsq import FSQ, FSQConfig

LEVELS = pytest.mark.parametrize("levels", [(2,), (3,), (4, 3), (8, 5, 5, 5), (7, 2, 6)], ids=str)


def bounded_by_hand(z: np.ndarray, levels: int) -> np.ndarray:
    """tanh(z + s) h - o of one channel, in float64."""
    h = (levels - 1) * (1 + 1e-3) / 2
    o = 0.5 if levels % 2 == 0 else 0.0
    return np.tanh(z + np.arctanh(o / h)) * h - o


def by_hand(latents: np.ndarray, levels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Latents `(N, D)` and codes `(N,)` of latents `(N, D)`."""
    digits = [np.round(bounded_by_hand(z, n)) + n // 2 for z, n in zip(latents.T, levels, strict=True)]
    z_q = [(digit - n // 2) / (n // 2) for digit, n in zip(digits, levels, strict=True)]
    place, codes = 1, np.zeros(len(latents), np.int64)
    for digit, n in zip(digits, levels, strict=True):
        codes += digit.astype(np.int64) * place
        place *= n
    return np.stack(z_q, 1), codes


@LEVELS
def test_latents_and_codes(levels):
    latents = 3 * torch.randn(500, len(levels), generator=torch.Generator().manual_seed(0))
    distance = [
        np.abs(np.abs(b - np.floor(b)) - 0.5)
        for b in (bounded_by_hand(z, n) for z, n in zip(latents.double().numpy().T, levels, strict=True))
    ]
    # Between two levels float32 and float64 may round apart.
    latents = latents[torch.from_numpy(np.min(distance, 0) > 1e-5)]
    assert len(latents) > 400
    quantized = FSQ(levels)(latents)
    z_q, codes = by_hand(latents.double().numpy(), levels)
    np.testing.assert_array_equal(quantized.codes[:, 0].numpy(), codes)
    np.testing.assert_allclose(quantized.latents.numpy(), z_q, rtol=1e-6)
    assert quantized.loss == 0


@LEVELS
def test_every_level_is_reached_and_none_beyond(levels):
    quantizer = FSQ(levels)
    z = torch.linspace(-30, 30, 6001).unsqueeze(1).expand(-1, quantizer.dim)
    latents = quantizer(z).latents
    for channel, n in enumerate(levels):
        expected = (np.arange(n) - n // 2) / (n // 2)
        np.testing.assert_allclose(latents[:, channel].unique().numpy(), expected, rtol=1e-6)


@LEVELS
def test_codes_are_the_numbers_of_all_combinations(levels):
    """Decoded in order, the first channel fastest; and the latents that each level comes from give them."""
    quantizer = FSQ(levels)
    codes = torch.arange(quantizer.num_codes).unsqueeze(1)
    digits = np.array([d[::-1] for d in itertools.product(*(range(n) for n in levels[::-1]))])
    half = np.array(levels) // 2
    np.testing.assert_allclose(quantizer.decode(codes).numpy(), (digits - half) / half, rtol=1e-6)
    h = (np.array(levels) - 1) * (1 + 1e-3) / 2
    o = np.where(np.array(levels) % 2 == 0, 0.5, 0.0)
    z = np.arctanh((digits - half + o) / h) - np.arctanh(o / h)
    assert torch.equal(quantizer.encode(torch.from_numpy(z).float()), codes)


@LEVELS
def test_the_gradient_is_that_of_the_bound(levels):
    latents = torch.randn(50, len(levels)).requires_grad_()
    weights = torch.randn(50, len(levels))
    (FSQ(levels)(latents).latents * weights).sum().backward()
    z = latents.detach().double().numpy()
    for channel, n in enumerate(levels):
        h = (n - 1) * (1 + 1e-3) / 2
        o = 0.5 if n % 2 == 0 else 0.0
        slope = h * (1 - np.tanh(z[:, channel] + np.arctanh(o / h)) ** 2) / (n // 2)
        expected = weights[:, channel].numpy() * slope
        np.testing.assert_allclose(latents.grad[:, channel].numpy(), expected, rtol=1e-3, atol=1e-6)


def test_as_many_codes_as_int64_has_numbers():
    quantizer = FSQ((2,) * 63)
    assert quantizer.num_codes == 2**63
    latents = torch.tensor([[-9.0] * 63, [9.0] * 63])
    codes = quantizer.encode(latents)
    assert codes.flatten().tolist() == [0, 2**63 - 1]
    assert torch.equal(quantizer.decode(codes), quantizer(latents).latents)
    with pytest.raises(InputError, match=r"at most 2\*\*63"):
        FSQ((2,) * 64)


def test_what_is_not_a_number_has_a_code_and_stays_seen():
    latents = torch.tensor([[torch.nan, 0.0], [torch.inf, -torch.inf]])
    quantized = FSQ((4, 5))(latents)
    assert quantized.codes.flatten().tolist() == [0 + 4 * 2, 3 + 4 * 0]
    assert quantized.latents.isnan().tolist() == [[True, False], [False, False]]


def test_usage_is_the_share_of_codes_in_the_batch():
    quantizer = FSQ((4, 3))
    quantized = quantizer(torch.randn(6, 2))
    assert quantized.terms["batch_usage"].item() == pytest.approx(len(quantized.codes.unique()) / 12)


@pytest.mark.parametrize("levels", [(), (1, 4), (8, 1001)])
def test_levels_out_of_range(levels):
    with pytest.raises(InputError):
        FSQ(levels)


@LEVELS
def test_the_sigmoid_bound_of_ifsq(levels):
    """2 sigmoid(1.6 x) - 1 in place of tanh(x), with the shift that leaves the middle of the range at 0."""
    z = torch.linspace(-4, 4, 4001)
    x = z.double().numpy()
    quantizer = FSQ(levels, bound="sigmoid")
    latents = z.unsqueeze(1).repeat(1, len(levels)).requires_grad_()
    quantized = quantizer(latents)
    quantized.latents.sum().backward()
    for channel, n in enumerate(levels):
        h, o = (n - 1) * (1 + 1e-3) / 2, 0.5 if n % 2 == 0 else 0.0
        shift = -np.log(2 / (o / h + 1) - 1) / 1.6
        p = 1 / (1 + np.exp(-1.6 * (x + shift)))
        bounded = (2 * p - 1) * h - o
        clear = np.abs(np.abs(bounded - np.floor(bounded)) - 0.5) > 1e-5
        expected = np.round(bounded) / (n // 2)
        np.testing.assert_allclose(
            quantized.latents[:, channel].detach().numpy()[clear], expected[clear], rtol=1e-6
        )
        np.testing.assert_allclose(
            latents.grad[:, channel].numpy(), 3.2 * p * (1 - p) * h / (n // 2), rtol=1e-3, atol=1e-6
        )


def test_the_sigmoid_bound_uses_inner_levels_evenly():
    """Of normally distributed latents; rounding leaves the outer two levels half a cell each."""
    latents = torch.randn(50_000, 1, generator=torch.Generator().manual_seed(0))
    ratios = []
    for bound in ("tanh", "sigmoid"):
        counts = FSQ((9,), bound)(latents).codes.flatten().bincount()[1:-1]
        ratios.append((counts.max() / counts.min()).item())
    assert ratios[0] > 1.3
    assert ratios[1] < 1.15


def test_another_bound_is_refused():
    with pytest.raises(ValidationError):
        FSQConfig(levels=(3,), bound="relu")
