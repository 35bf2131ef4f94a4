"""k-means: what it finds, that it is at rest there, and what it does with equal features."""

import pytest
import torch

from smalti.core.errors import InputError
from smalti.quantizers.kmeans import kmeans


def features(num: int = 200, dim: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def test_clusters_far_apart_are_found_from_every_beginning():
    centres = torch.tensor([[9.0, 9.0], [9.0, -9.0], [-9.0, 9.0], [-9.0, -9.0], [0.0, 0.0]]) + 40
    x = centres.repeat(30, 1) + 0.1 * features(150, 2)
    for seed in range(5):
        found = kmeans(x, 5, seed)
        assert torch.cdist(centres, found).argmin(1).unique().numel() == 5
        assert torch.cdist(centres, found).amin(1).max() < 0.1


def test_each_centre_is_the_mean_of_what_is_nearest_to_it():
    x = features()
    centres = kmeans(x, 9, iterations=200)
    nearest = torch.cdist(x, centres).argmin(1)
    for index in range(9):
        torch.testing.assert_close(centres[index], x[nearest == index].mean(0), rtol=1e-4, atol=1e-5)


def test_more_iterations_are_never_worse():
    x = features()
    distortions = [
        torch.cdist(x, kmeans(x, 16, iterations=n)).amin(1).square().mean().item() for n in (0, 1, 3, 30)
    ]
    assert distortions == sorted(distortions, reverse=True)
    assert distortions[-1] < 0.9 * distortions[0]


def test_one_cluster_is_the_mean_and_as_many_as_features_are_the_features():
    x = features(12)
    torch.testing.assert_close(kmeans(x, 1), x.mean(0, keepdim=True))
    found = kmeans(x, 12)
    assert torch.cdist(x, found).amin(1).max() < 1e-5


def test_the_seed_decides_and_the_global_generator_does_not():
    x, results = features(), []
    for seed, other in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(other)
        results.append(kmeans(x, 8, seed, iterations=1))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_equal_features():
    x = torch.ones(10, 2).double()
    found = kmeans(x, 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.ones(4, 2))


@pytest.mark.parametrize("num", [0, 13])
def test_more_clusters_than_features(num):
    with pytest.raises(InputError, match=f"expected from 1 to 12 clusters.*received {num}"):
        kmeans(features(12), num)
