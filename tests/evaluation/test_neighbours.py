"""Nearest neighbours, precision and recall against their definitions in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smalti.core.errors import InputError
from smalti.evaluation.neighbours import NearestNeighbours, precision_and_recall, share_closer


def features(num: int, seed: int, spread: float = 1.0, offset: float = 0.0) -> torch.Tensor:
    drawn = torch.randn(num, 6, generator=torch.Generator().manual_seed(seed))
    return spread * drawn + offset


def distances(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    return np.linalg.norm(a.double().numpy()[:, None] - b.double().numpy()[None], axis=2)


def test_nearest_neighbours_of_a_set_in_parts() -> None:
    given, others = features(1_030, 0), features(50, 1)
    pictures = torch.arange(50.0).view(50, 1, 1, 1).expand(50, 3, 4, 5)
    found = NearestNeighbours(given, num_shown=7)
    assert found.shown == []
    for part in (slice(0, 20), slice(20, 50)):
        found.update(others[part], pictures[part])
    expected = distances(given, others)
    np.testing.assert_allclose(found.distances.numpy(), expected.min(1), rtol=1e-5)
    assert found.count == 50
    assert [int(picture[0, 0, 0]) for picture in found.shown] == expected.argmin(1)[:7].tolist()
    assert found.shown[0].shape == (3, 4, 5)


def test_a_copy_is_at_no_distance() -> None:
    far = features(20, 0, offset=1_000)
    found = NearestNeighbours(far[:3])
    found.update(far, torch.zeros(20, 1, 2, 2))
    assert found.distances.max() < 1e-3


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall(neighbours: int) -> None:
    originals, samples = features(60, 0), features(45, 1, spread=0.6)
    within, between = distances(originals, originals), distances(samples, originals)
    precision = (np.sort(within, 1)[:, neighbours] >= between).any(1).mean()
    recall = (np.sort(distances(samples, samples), 1)[:, neighbours] >= between.T).any(1).mean()
    assert precision_and_recall(originals, samples, neighbours) == pytest.approx((precision, recall))
    assert precision > recall, "the samples are narrower than the originals"


def test_sets_that_are_equal_or_far_apart() -> None:
    same = features(30, 0)
    assert precision_and_recall(same, same) == (1, 1)
    assert precision_and_recall(same, same + 100) == (0, 0)
    with pytest.raises(InputError, match="more than 3 pictures"):
        precision_and_recall(same, same[:3])


def test_copies_are_closer_than_originals() -> None:
    training, originals = features(200, 0), features(100, 1)
    of_originals = NearestNeighbours(originals)
    copies = torch.cat([training[:30] + 1e-4, features(90, 2)])
    of_samples = NearestNeighbours(copies)
    for each in (of_originals, of_samples):
        each.update(training, torch.zeros(200, 1, 2, 2))
    assert share_closer(of_samples.distances, of_originals.distances, 0.01) == pytest.approx(0.25, abs=0.03)
    assert share_closer(of_originals.distances, of_originals.distances, 0.01) == pytest.approx(0.01)
