"""`smalti diagnose`: the faults of a run's codebook, and the settings that mend them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from smalti.app.console import Counter, amount, counting, note
from smalti.app.data import known_labels, open_data, open_loader, pick_split, prepare
from smalti.app.runs import DATA_DIRECTORY, check_model, model_of
from smalti.core.conditions import Batch
from smalti.core.errors import InputError, printable
from smalti.core.files import atomic_file
from smalti.core.models import Autoencoder
from smalti.data.crops import CropLoader
from smalti.data.loader import Loader, evenly_spaced, split_indices
from smalti.data.store import Store
from smalti.encoders.pooling import item_statistics
from smalti.evaluation.diagnosis.finding import Finding
from smalti.evaluation.diagnosis.measurements import Measurements, check_quantizers, measure_codebooks
from smalti.evaluation.diagnosis.rules import find_faults
from smalti.trained import TrainedModel, load_trained
from smalti.training.checkpoints import RunDirectory

DIAGNOSIS = "diagnosis.json"
FIGURE = "diagnosis.png"
LEAST_ITEMS, MOST_ITEMS = 512, 8192
"""Number of training items that are looked at, as many as `TOKENS` requires."""
TOKENS = 20
"""Positions per code, so that a code of even use is missed with a probability of e^-20."""
HELD_OUT_ITEMS = 512
BATCH = 32


def diagnose(
    run: str,
    data: str | None = None,
    split: str | None = None,
    out: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Diagnose a run; save `diagnosis.json` and `figures/diagnosis.png` in it, or in another directory.

    The items are those of the run: training items, and the validation items as held-out ones. A source takes
    the place of the validation items; for a run without its data, it is all that is measured.

    Args:
        run: a run's directory, or a name on the Hub.
        data: a source; None uses the run's own items only.
        split: split of the source; None selects `test` if it exists, else `validation`.
        out: directory of the results; None is the run, if it is local.
        quiet: hide progress.

    Raises:
        InputError: for a user error, or a model without a quantizer.
    """
    if split is not None and data is None:
        raise InputError(
            f"expected --data SOURCE with --split, whose split it chooses, received --split {split} alone: "
            "add --data, or leave --split out"
        )
    trained = load_trained(run, load_priors=False)
    check_quantizers(trained.model)
    directory = RunDirectory(trained.directory)
    with TemporaryDirectory(prefix="smalti-") as scratch:
        training, held_out = _items(trained, data, split, Path(scratch), quiet)
        total = training.count + (0 if held_out is None else held_out.count)
        with counting("Measuring", quiet) as count:
            measurements = measure_codebooks(
                trained.model,
                _counted(training.batches, 0, total, count),
                held_out and _counted(held_out.batches, training.count, total, count),
                training.out_of,
                directory.metrics(),
            )
    findings = find_faults(measurements, by_own_loss=trained.recipe.objective.is_plain)
    report = {
        "model": trained.fingerprint,
        "training": training.name,
        "held_out": None if held_out is None else held_out.name,
        "findings": [asdict(finding) for finding in findings],
        **measurements.to_json(),
    }
    if out is not None:
        _save(out, report, measurements)
    elif Path(run).expanduser().is_dir():
        try:
            _save(trained.directory, report, measurements)
        except (InputError, OSError) as error:
            note(f"The diagnosis is not saved in the run: {error}")
    return report


def describe(report: dict[str, Any]) -> str:
    """Describe a report as text: the findings, worst first, and the main figures."""
    findings = [Finding(**each) for each in report["findings"]]
    faults = sum(each.severity != "note" for each in findings)
    lines = [f"{report['title']}: {amount(faults, 'faults') if faults else 'nothing is wrong'}"]
    for number, each in enumerate(findings, 1):
        where = f" ({each.codebook})" if each.codebook else ""
        lines += [f"{number}. {each.name}{where}, {each.severity}: {each.text}.", f"   To do: {each.advice}."]
    lines += ["", *(line for codebook in report["codebooks"] for line in _figures_of(codebook))]
    for unit in ("bits", "nats"):
        name = f"distortion_{unit}_per_dim"
        if name in report:
            plain = report[f"{name}_unquantized"]
            extra = "" if plain is None else f"; without quantization {plain:.3f}"
            lines.append(f"distortion  {report[name]:.3f} {unit}/dim{extra}")
    lines.append(f"data        {report['training']}; held out: {report['held_out'] or 'none'}")
    return "\n".join(map(printable, lines))


def _figures_of(codebook: dict[str, Any]) -> Iterator[str]:
    """Yield lines with the main figures of a codebook."""
    if codebook["name"]:
        yield codebook["name"]
    use, geometry, gradients = codebook["training"], codebook["geometry"], codebook["gradients"]
    yield (
        f"codes       {use['usage']:.1%} of {codebook['num_codes']:,} used, perplexity "
        f"{use['perplexity']:.1f}, the most frequent one takes {use['top_share']:.1%}"
    )
    if geometry is not None:
        yield (
            f"latents     length {geometry['latent_length']:.3g}, of their codes "
            f"{geometry['code_length']:.3g}; {geometry['relative_error']:.1%} of their variance is lost"
        )
    ratios = [
        f"{name} {value / gradients['distortion']:.3g}"
        for name, value in gradients.items()
        if name != "distortion" and gradients["distortion"]
    ]
    if ratios:
        yield f"gradients   relative to that of the distortion: {', '.join(ratios)}"


@dataclass(frozen=True)
class _Items:
    """Items to measure.

    Attributes:
        batches: of the items.
        count: number of items, or of crops of ragged ones.
        name: description, for the report.
        out_of: size of the training set, in items of the size that the loader gives; None if they are not
            training items.
    """

    batches: Iterator[Batch]
    count: int
    name: str
    out_of: int | None = None


def _items(
    trained: TrainedModel, data: str | None, split: str | None, scratch: Path, quiet: bool
) -> tuple[_Items, _Items | None]:
    """Return the training items and the held-out items; without the run's data, those of the source alone."""
    directory = trained.directory / DATA_DIRECTORY
    store = Store.open(directory) if directory.is_dir() else None
    if store is None and data is None:
        raise InputError(
            f"expected the training data in {directory}, found none: add --data SOURCE to diagnose the model "
            "on it"
        )
    other = None
    if data is not None:
        other = _source(trained, data, split, scratch, quiet)
        if store is None:
            return other, None
    assert store is not None
    indices, validation = split_indices(store.count, trained.recipe.validation_fraction)
    training = _chosen(trained, store, indices, _num_items(trained), "the run", is_own=True)
    if other is None and len(validation):
        other = _chosen(trained, store, validation, HELD_OUT_ITEMS, "the run, held out", is_own=True)
    return replace(training, out_of=_num_crops(trained, store, indices)), other


def _source(trained: TrainedModel, data: str, split: str | None, scratch: Path, quiet: bool) -> _Items:
    source = open_data(data, trained.modality)
    check_model(RunDirectory(trained.directory), model_of(source))
    name = pick_split(source, split, "test", "validation", "all")
    store = prepare(
        scratch / "data", source, name, trained.modality, quiet=quiet, skipped_in=None
    ).with_names(trained.columns)
    where = f"{data}, split {name}"
    return _chosen(trained, store, np.arange(store.count), _num_items(trained), where, is_own=False)


def _chosen(
    trained: TrainedModel, store: Store, indices: np.ndarray, num: int, where: str, is_own: bool
) -> _Items:
    """Select at most `num` evenly spaced items, or evenly spaced crops of ragged items."""
    if store.lengths is None:
        chosen = evenly_spaced(indices, num)
        name = f"{amount(len(chosen), 'items')} of {len(indices):,} of {where}"
        return _Items(_loader(trained, store, chosen, is_own).watch(), len(chosen), name)
    loader = _loader(trained, store, indices, is_own)
    assert isinstance(loader, CropLoader)
    count = min(num, max(len(indices), _num_crops(trained, store, indices)))
    name = f"{amount(count, 'crops')} of {amount(len(indices), 'items')} of {where}"
    return _Items(loader.spread(count), count, name)


def _num_crops(trained: TrainedModel, store: Store, indices: np.ndarray) -> int:
    """Number of items, or of crops that are as large as ragged ones together."""
    if store.lengths is None:
        return len(indices)
    crop = math.prod(trained.modality.spec.size[: store.num_open])
    return max(1, round(store.lengths[indices].sum() / crop))


def _num_items(trained: TrainedModel) -> int:
    """Number of items with `TOKENS` positions per code."""
    model = trained.model
    if not isinstance(model, Autoencoder):
        return LEAST_ITEMS
    positions = math.prod(model.grid) * model.num_codebooks // (max(model.codebook_ids) + 1)
    return min(MOST_ITEMS, max(LEAST_ITEMS, TOKENS * model.num_codes // max(1, positions)))


def _loader(trained: TrainedModel, store: Store, indices: np.ndarray, is_own: bool) -> Loader | CropLoader:
    """Load items of the run's own data, or of another source with class names of its own."""
    labels = None if is_own else known_labels(trained, store)
    loader = open_loader(
        store, trained.modality, trained.model, BATCH, trained.device, indices=indices, labels=labels
    )
    ids = {name: label for label, name in enumerate(store.classes)} if is_own else trained.label_ids
    statistics = item_statistics(trained.model, trained.modality, store, ids)
    loader.voices = None if statistics is None else statistics[indices]
    return loader


def _counted(batches: Iterator[Batch], done: int, total: int, progress: Counter) -> Iterator[Batch]:
    """Yield batches, and report the number of items after each one."""
    for batch in batches:
        yield batch
        done += len(batch.data)
        progress(done, total)


def _save(directory: Path, report: dict[str, Any], measurements: Measurements) -> None:
    from smalti.evaluation.diagnosis.drawing import draw_diagnosis  # Matplotlib is slow to import

    with atomic_file(directory / DIAGNOSIS) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    draw_diagnosis(measurements, directory / "figures" / FIGURE)
