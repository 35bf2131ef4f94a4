"""Nearest neighbours in features: how close samples are to training pictures, and precision and recall."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from smalti.core.errors import InputError

AT_ONCE = 1_000
"""Rows of a matrix of distances that are computed together."""


@final
class NearestNeighbours:
    """The nearest picture of a set that arrives in parts, for each of given pictures.

    Args:
        features: of the given pictures, `(n, d)`.
        num_shown: number of these pictures, from the first, whose neighbours are kept as pictures.
    """

    def __init__(self, features: Float[Tensor, "n d"], num_shown: int = 0) -> None:
        self._features = features
        self.distances = torch.full((len(features),), torch.inf)
        """Euclidean distance from each given picture to the nearest one so far, `(n,)`."""
        self.count = 0
        """Number of pictures in the set so far."""
        self._shown: list[Tensor | None] = [None] * min(num_shown, len(features))

    def update(self, features: Float[Tensor, "m d"], pictures: Float[Tensor, "m c h w"]) -> None:
        """Add pictures, and their features, to the set."""
        self.count += len(features)
        distances, indices = nearest(self._features, features)
        is_nearer = distances < self.distances
        self.distances = torch.where(is_nearer, distances, self.distances)
        for query in is_nearer[: len(self._shown)].nonzero().flatten().tolist():
            self._shown[query] = pictures[int(indices[query])].cpu()

    @property
    def shown(self) -> list[Float[Tensor, "c h w"]]:
        """The nearest pictures of the first given ones; empty for an empty set."""
        return [each for each in self._shown if each is not None]


def nearest(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]
) -> tuple[Float[Tensor, " n"], Int64[Tensor, " n"]]:
    """Euclidean distance from each row of `a` to the nearest row of `b`, and the index of that row."""
    found = [_distances(part, b).min(1) for part in a.split(AT_ONCE)]
    return torch.cat([each.values for each in found]).float(), torch.cat([each.indices for each in found])


def share_closer(samples: Float[Tensor, " n"], originals: Float[Tensor, " m"], share: float) -> float:
    """Share of distances of samples that are smaller than all but a share of those of originals."""
    return float((samples < originals.quantile(share)).double().mean())


def precision_and_recall(
    originals: Float[Tensor, "n d"], samples: Float[Tensor, "m d"], neighbours: int = 3
) -> tuple[float, float]:
    """Share of the samples that could be originals, and of the originals that could be samples.

    A picture could be of a set if it is as near to one of its pictures as that one's k-th neighbour in the
    set (Kynkaanniemi et al. 2019, arXiv 1904.06991, equation 2). Both depend on the numbers of pictures:
    compare them at equal numbers only.

    Args:
        originals: features of the originals.
        samples: features of the samples.
        neighbours: k.

    Raises:
        InputError: if a set has k pictures or fewer.
    """
    if min(len(originals), len(samples)) <= neighbours:
        raise InputError(
            f"expected more than {neighbours} pictures in each set for precision and recall, received "
            f"{len(originals)} and {len(samples)}: use more data"
        )
    return _covered(samples, originals, neighbours), _covered(originals, samples, neighbours)


def _covered(pictures: Float[Tensor, "n d"], by: Float[Tensor, "m d"], neighbours: int) -> float:
    """Share of pictures within the radius of one of a set, the distance to its k-th neighbour in the set."""
    # Each picture is its own nearest neighbour, so the k-th other one is number k + 1.
    radii = torch.cat([_distances(part, by).kthvalue(neighbours + 1).values for part in by.split(AT_ONCE)])
    inside = [(_distances(part, by) <= radii).any(1) for part in pictures.split(AT_ONCE)]
    return float(torch.cat(inside).double().mean())


def _distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float64[Tensor, "n m"]:
    # In double precision, as a distance is the root of a difference of products: equal rows have about 0.
    return torch.cdist(a.double(), b.double())
