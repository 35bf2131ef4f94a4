"""Distances between features of originals, reconstructions and samples, for `smalti evaluate --features`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smalti.app.console import counting
from smalti.app.data import open_loader
from smalti.app.runs import DATA_DIRECTORY
from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.data.loader import evenly_spaced, split_indices
from smalti.data.store import Store
from smalti.evaluation.features import NAME, FeatureStatistics, frechet_distance
from smalti.evaluation.features import PROTOCOL as PROTOCOL_OF_DISTANCES
from smalti.evaluation.neighbours import NearestNeighbours, precision_and_recall, share_closer
from smalti.modalities.image.pixels import as_levels, picture_grid
from smalti.objectives.base import check_pictures, pictures
from smalti.tokenizer import Tokenizer
from smalti.trained import TrainedModel

MOST_SAMPLES = 2_000
"""Maximum number of samples drawn from each prior."""
MOST_TRAINING = 10_000
"""Maximum number of training items among which neighbours are searched."""
DRAWN_AT_ONCE = 100
NEIGHBOURS = 3
"""Number k of the neighbours of precision and recall."""
CLOSE = 0.01
"""A sample is close if it is nearer to a training picture than all but this share of the originals."""
SHOWN = 8
"""Number of samples of each prior in the figure of neighbours."""
PROTOCOL = (
    f"{PROTOCOL_OF_DISTANCES}. Precision and recall (Kynkaanniemi et al. 2019) are those of the {NEIGHBOURS} "
    "nearest neighbours, with equally many originals and samples. Distances from training pictures are "
    f"Euclidean, to the reconstructions of at most {MOST_TRAINING:,} evenly spaced training items (of longer "
    "ones the middle) without mirror images; as samples are decoded from codes, they are compared with the "
    f"reconstructions of the originals: close is a sample that is nearer than {1 - CLOSE:.0%} of these"
)


def check_features(trained: TrainedModel) -> None:
    """Check that features of the model's signals can be compared, before any data is read.

    Raises:
        InputError: for other signals than pictures or clips, or if the network is not installed.
    """
    check_pictures(trained.model.signal, "--features")
    FeatureStatistics()


def measure_features(
    trained: TrainedModel,
    batches: Callable[[], Iterable[Batch]],
    num: int,
    quiet: bool,
    *,
    with_samples: bool = True,
) -> tuple[dict[str, Any], Image.Image | None]:
    """Compare reconstructions, and the samples of each learned prior, with the originals.

    Args:
        trained: the run.
        batches: the held-out items, each time from the first.
        num: number of items.
        quiet: hide progress.
        with_samples: whether samples are of the size of the originals, and are compared with them.

    Returns:
        The figures: `network`, `num` (pictures or frames of the originals), `reconstructions` and `halves`,
        which is the distance between every second original and the others. With learned priors also
        `samples` (distances), `precision` and `recall` by prior, and `num_samples` (pictures or frames).
        With the run's training data also `neighbours`: `num_training` (pictures or frames), the median
        distance of the reconstructions of originals, and of each prior's samples, from the nearest
        reconstructions of training pictures, and `close`, the share of samples that are nearer than nearly
        all originals.

        A picture of the first samples of each prior above their nearest training pictures, or None.
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
    report = {
        "network": NAME,
        "num": originals.count,
        "reconstructions": frechet_distance(originals, again),
        "halves": frechet_distance(*halves),
    }
    if not (trained.learned and with_samples):
        return report, None
    samples = {name: _drawn(trained, name, min(num, MOST_SAMPLES), quiet) for name in trained.learned}
    report["num_samples"] = min(drawn.count for drawn, _ in samples.values())
    report["samples"] = {name: frechet_distance(originals, drawn) for name, (drawn, _) in samples.items()}
    equal = _thinned(originals.features, report["num_samples"])
    shares = {
        name: precision_and_recall(equal, _thinned(drawn.features, len(equal)), NEIGHBOURS)
        for name, (drawn, _) in samples.items()
    }
    report["precision"] = {name: precision for name, (precision, _) in shares.items()}
    report["recall"] = {name: recall for name, (_, recall) in shares.items()}
    neighbours, figure = _neighbours(trained, again, samples, quiet)
    return report | neighbours, figure


def _drawn(trained: TrainedModel, name: str, wanted: int, quiet: bool) -> tuple[FeatureStatistics, Tensor]:
    """Features of samples of a prior, and the first of these samples."""
    tokenizer, drawn, shown = Tokenizer(trained), FeatureStatistics(), torch.empty(0)
    with counting(f"Samples of {name}", quiet) as count:
        for seed, first in enumerate(range(0, wanted, DRAWN_AT_ONCE)):
            size = min(DRAWN_AT_ONCE, wanted - first)
            codes = tokenizer.sample_codes(size, seed=seed, batch_size=size, prior=name)
            made = pictures(tokenizer.decode_signals(codes, seed=seed))
            drawn.update(made)
            if first == 0:  # of each clip its first frame
                shown = made[:: len(made) // size][:SHOWN].cpu()
            count(first + size, wanted)
    return drawn, shown


def _neighbours(
    trained: TrainedModel,
    originals: FeatureStatistics,
    samples: dict[str, tuple[FeatureStatistics, Tensor]],
    quiet: bool,
) -> tuple[dict[str, Any], Image.Image | None]:
    """The report's entry `neighbours`, and its figure; nothing for a run without its training data.

    Args:
        trained: the run.
        originals: features of the reconstructions of the originals.
        samples: features of the samples of each prior, and those of them to show.
        quiet: hide progress.
    """
    directory = trained.directory / DATA_DIRECTORY
    if not directory.is_dir():
        return {}, None
    of_originals = NearestNeighbours(originals.features)
    found = {name: NearestNeighbours(drawn.features) for name, (drawn, _) in samples.items()}
    network = FeatureStatistics()
    of_shown = {name: NearestNeighbours(network.update(shown), SHOWN) for name, (_, shown) in samples.items()}
    store = Store.open(directory)
    indices = evenly_spaced(split_indices(store.count, trained.recipe.validation_fraction)[0], MOST_TRAINING)
    loader = open_loader(
        store, trained.modality, trained.model, DRAWN_AT_ONCE, trained.device, indices=indices
    )
    generator, done = torch.Generator().manual_seed(0), 0
    with counting("Training data", quiet) as count, torch.no_grad():
        for batch in loader.watch(DRAWN_AT_ONCE):
            again = pictures(trained.model.reconstruct(batch.data, batch.conditions, generator))
            features = FeatureStatistics().update(again).cpu()
            for each in (of_originals, *found.values(), *of_shown.values()):
                each.update(features, pictures(batch.data))
            done += len(batch.data)
            count(done, len(indices))
    entry = {
        "num_training": of_originals.count,
        "originals": float(of_originals.distances.median()),
        "samples": {name: float(each.distances.median()) for name, each in found.items()},
        "close": {
            name: share_closer(each.distances, of_originals.distances, CLOSE) for name, each in found.items()
        },
    }
    rows = [row for name, (_, shown) in samples.items() for row in (shown, torch.stack(of_shown[name].shown))]
    return {"neighbours": entry}, picture_grid([as_levels(row) for row in rows], SHOWN)


def _thinned(features: Tensor, most: int) -> Tensor:
    """At most so many evenly spaced rows."""
    return features[torch.from_numpy(evenly_spaced(np.arange(len(features)), most))]


def note_of_features(report: dict[str, Any]) -> str | None:
    """Return sentences on the features of a report; None if it has none."""
    found = report.get("features")
    if not found:
        return None
    text = (
        f"Distance from {found['num']:,} originals in {found['network']} features: reconstructions "
        f"{found['reconstructions']:.3f}"
    )
    for name, distance in found.get("samples", {}).items():
        text += f", {found['num_samples']:,} samples of the prior {name} {distance:.3f}"
        text += f" (precision {found['precision'][name]:.1%}, recall {found['recall'][name]:.1%})"
    text += f"; between halves of the originals {found['halves']:.3f}."
    if (near := found.get("neighbours")) is not None:
        text += (
            f" Median distance from the nearest of {near['num_training']:,} reconstructed training pictures: "
            f"reconstructions of originals "
            f"{near['originals']:.3f}"
        )
        for name, distance in near["samples"].items():
            close = f"{near['close'][name]:.1%} closer than {1 - CLOSE:.0%} of the originals"
            text += f", {name} {distance:.3f} ({close})"
        text += "."
    return text
