"""Distances between features of originals, reconstructions and samples, for `smalti evaluate --features`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from smalti.app.console import counting
from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.evaluation.features import NAME, FeatureStatistics, frechet_distance
from smalti.objectives.base import check_pictures, pictures
from smalti.tokenizer import Tokenizer
from smalti.trained import TrainedModel

MOST_SAMPLES = 2_000
"""Maximum number of samples drawn from each prior."""
DRAWN_AT_ONCE = 100


def check_features(trained: TrainedModel) -> None:
    """Check that features of the model's signals can be compared, before any data is read.

    Raises:
        InputError: for other signals than pictures or clips, or if the network is not installed.
    """
    check_pictures(trained.model.signal, "--features")
    FeatureStatistics()


def measure_features(
    trained: TrainedModel, batches: Callable[[], Iterable[Batch]], num: int, quiet: bool
) -> dict[str, Any]:
    """Measure the distance of reconstructions, and of each learned prior's samples, from the originals.

    Args:
        trained: the run.
        batches: the held-out items, each time from the first.
        num: number of items.
        quiet: hide progress.

    Returns:
        `network`, `num` (pictures or frames of the originals), `reconstructions`, `halves`, which is the
        distance between every second original and the others, and `samples` by prior, with `num_samples`
        (pictures or frames).
    """
    originals, again = FeatureStatistics(), FeatureStatistics()
    halves = FeatureStatistics(), FeatureStatistics()
    generator = torch.Generator().manual_seed(0)
    with counting("Features", quiet) as count, torch.no_grad():
        done = 0
        for batch in batches():
            features = originals.update(pictures(batch.data))
            for item, own in enumerate(features.chunk(len(batch.data)), done):
                halves[item % 2].add(own)  # the frames of a clip are in the same half
            again.update(pictures(trained.model.reconstruct(batch.data, batch.conditions, generator)))
            done += len(batch.data)
            count(done, num)
    if min(each.count for each in halves) < 2:
        raise InputError(f"expected at least 4 items for --features, received {num}: use more data")
    return {
        "network": NAME,
        "num": originals.count,
        "reconstructions": frechet_distance(originals, again),
        "halves": frechet_distance(*halves),
        **_of_samples(trained, originals, num, quiet),
    }


def _of_samples(trained: TrainedModel, originals: FeatureStatistics, num: int, quiet: bool) -> dict[str, Any]:
    """Distance of each learned prior's samples from the originals; nothing without such a prior."""
    if not trained.learned:
        return {}
    wanted, distances, count_of_pictures = min(num, MOST_SAMPLES), {}, 0
    tokenizer = Tokenizer(trained)
    for name in trained.learned:
        drawn = FeatureStatistics()
        with counting(f"Samples of {name}", quiet) as count:
            for seed, first in enumerate(range(0, wanted, DRAWN_AT_ONCE)):
                size = min(DRAWN_AT_ONCE, wanted - first)
                codes = tokenizer.sample_codes(size, seed=seed, batch_size=size, prior=name)
                drawn.update(pictures(tokenizer.decode_signals(codes, seed=seed)))
                count(first + size, wanted)
        distances[name], count_of_pictures = frechet_distance(originals, drawn), drawn.count
    return {"samples": distances, "num_samples": count_of_pictures}


def note_of_features(report: dict[str, Any]) -> str | None:
    """Return a sentence on the features of a report; None if it has none."""
    found = report.get("features")
    if not found:
        return None
    text = (
        f"Distance from {found['num']:,} originals in {found['network']} features: reconstructions "
        f"{found['reconstructions']:.3f}"
    )
    for name, distance in found.get("samples", {}).items():
        text += f", {found['num_samples']:,} samples of the prior {name} {distance:.3f}"
    return f"{text}; between halves of the originals {found['halves']:.3f}."
