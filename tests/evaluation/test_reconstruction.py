"""PSNR, SSIM and squared error, against NumPy."""

import numpy as np
import pytest
import torch

from smalti.core.signals import Continuous, SignalSpec
from smalti.evaluation.reconstruction import Reconstruction


def pair(num: int = 5, channels: int = 3, size: tuple[int, ...] = (16, 20), noise: float = 0.3):
    """Originals, and reconstructions some of which leave the range."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (num, channels, *size))
    y = x + noise * np.arange(1, num + 1).reshape(-1, *[1] * (x.ndim - 1)) * rng.normal(size=x.shape)
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()


def measure(x: torch.Tensor, y: torch.Tensor, batch_size: int = 2) -> dict[str, float | None]:
    meter = Reconstruction(SignalSpec(x.shape[1], x.shape[2:]))
    for one, other in zip(x.split(batch_size), y.split(batch_size), strict=True):
        meter.update(one, other)
    return meter.compute()


def to_unit(signal: torch.Tensor) -> np.ndarray:
    return (signal.double().clamp(-1, 1).numpy() + 1) / 2


def ssim_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004: Gaussian window 11x11, sigma 1.5, over images that are reflected at their borders."""
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2

    def local_mean(image: np.ndarray) -> np.ndarray:
        reflected = np.pad(image, 5, mode="reflect")
        return (np.lib.stride_tricks.sliding_window_view(reflected, (11, 11)) * window).sum((2, 3))

    values = []
    for a, b in zip(x, y, strict=True):
        mean_a, mean_b = local_mean(a), local_mean(b)
        var_a, var_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
        covariance = local_mean(a * b) - mean_a * mean_b
        c1, c2 = 0.01**2, 0.03**2
        values.append(
            (2 * mean_a * mean_b + c1)
            * (2 * covariance + c2)
            / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
        )
    return float(np.mean(values))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 20), (7, 9), (40,), (4, 6, 8)])
def test_errors_by_hand(size, channels):
    x, y = pair(channels=channels, size=size)
    a, b = to_unit(x), to_unit(y)
    errors = ((a - b) ** 2).reshape(5, -1).mean(1)
    figures = measure(x, y)
    assert figures["mse"] == pytest.approx(errors.mean(), rel=1e-5)
    assert figures["mse_over_variance"] == pytest.approx(errors.mean() / a.var(), rel=1e-4)
    assert figures["psnr"] == pytest.approx((-10 * np.log10(errors)).mean(), rel=1e-5)
    assert figures["psnr_pooled"] == pytest.approx(-10 * np.log10(errors.mean()), rel=1e-5)
    assert figures["psnr"] > figures["psnr_pooled"] + 0.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 20), (11, 11)])
def test_ssim_by_hand(size, channels):
    x, y = pair(channels=channels, size=size)
    expected = np.mean([ssim_by_hand(a, b) for a, b in zip(to_unit(x), to_unit(y), strict=True)])
    assert measure(x, y)["ssim"] == pytest.approx(expected, abs=2e-4)


def test_ssim_of_clips_is_that_of_their_frames():
    x, y = pair(size=(4, 12, 16))
    frames = [measure(x[:, :, i], y[:, :, i])["ssim"] for i in range(4)]
    assert measure(x, y)["ssim"] == pytest.approx(np.mean(frames), rel=1e-6)


def test_a_remainder_batch_counts_by_its_items():
    x, y = pair()
    whole = measure(x, y, 5)
    for batch_size in (1, 2, 3, 4):
        assert measure(x, y, batch_size) == pytest.approx(whole, rel=1e-5)


def test_identical_images():
    x, _ = pair()
    figures = measure(x, x)
    assert figures["ssim"] == pytest.approx(1.0, abs=1e-6)
    assert figures["mse"] == figures["mse_over_variance"] == 0
    assert figures["psnr"] == figures["psnr_pooled"] == pytest.approx(100)


@pytest.mark.parametrize("size", [(10, 32), (32, 10), (64,), (16, 16, 10)])
def test_no_ssim_below_the_window_or_off_a_plane(size):
    assert measure(*pair(size=size))["ssim"] is None


def test_a_constant_split_has_no_variance():
    x = torch.full((2, 1, 4, 4), 0.5)
    assert measure(x, x - 0.1)["mse_over_variance"] is None


def test_every_figure_has_its_protocol():
    assert {"psnr", "ssim", "mse_over_variance"} <= set(Reconstruction(SignalSpec(3, (16, 16))).protocol())


@pytest.mark.parametrize("others", [(), (3, 2)])
def test_items_count_up_to_their_length(others):
    x, y = pair(size=(12, *others))
    lengths = torch.tensor([12, 3, 1, 7, 12])
    spec = SignalSpec(3, (12, *others))
    ragged, one_by_one = Reconstruction(spec), Reconstruction(spec)
    spoiled = y.clone()
    for item, length in zip(spoiled, lengths.tolist(), strict=True):
        item[:, length:] = 9.0
    ragged.update(x[:2], spoiled[:2], lengths[:2])
    ragged.update(x[2:], spoiled[2:], lengths[2:])
    for item, length in enumerate(lengths.tolist()):
        one_by_one.update(x[[item], :, :length], y[[item], :, :length])
    assert ragged.compute() == one_by_one.compute()
    errors = [
        float(((to_unit(x[i, :, :n]) - to_unit(y[i, :, :n])) ** 2).mean())
        for i, n in enumerate(lengths.tolist())
    ]
    assert ragged.compute()["mse"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_where_nothing_was_reconstructed_there_are_no_figures():
    assert Reconstruction(SignalSpec(3, (16, 16))).compute() == {}


def test_continuous_data_has_no_range_and_missing_values_do_not_count():
    x, y = pair(size=(12,))
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[1] = False
    meter = Reconstruction(SignalSpec(3, (12,), domain=Continuous()))
    meter.update(9 * x, torch.where(mask, 9 * y, 1e6), None, mask)
    result = meter.compute()
    assert set(result) == {"mse", "mse_over_variance"}
    errors = [((9 * x[i] - 9 * y[i])[mask[i]] ** 2).double().mean() for i in (0, 2, 3, 4)]
    assert result["mse"] == pytest.approx(float(np.mean(errors)), rel=1e-5)
    variance = (9 * x)[mask].double().var(correction=0)
    assert result["mse_over_variance"] == pytest.approx(result["mse"] / float(variance), rel=1e-5)
