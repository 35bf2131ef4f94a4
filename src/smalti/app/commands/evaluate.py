"""`smalti evaluate`: bits/dim, reconstruction quality and codebook usage of a run on held-out data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from smalti.app.commands import evaluate_features
from smalti.app.commands.evaluate_files import PROTOCOL, check_files, measure_files, note_of_files
from smalti.app.console import amount, counting, note
from smalti.app.data import known_labels, open_data, open_loader, pick_split, prepare
from smalti.app.native import Size
from smalti.app.runs import check_model, model_of
from smalti.core.conditions import Batch
from smalti.core.errors import InputError, printable
from smalti.core.files import atomic_file
from smalti.core.modality import Modality
from smalti.core.units import bits_per_dim
from smalti.data.crops import CropLoader
from smalti.data.fingerprints import fingerprints, read_fingerprints
from smalti.data.loader import Loader
from smalti.data.store import Store
from smalti.encoders.pooling import item_statistics
from smalti.evaluation.bounds import LabelPrior
from smalti.evaluation.evaluate import Evaluation
from smalti.evaluation.evaluate import evaluate as measure
from smalti.evaluation.figures import usage_histogram
from smalti.models.sizes import check_any_size
from smalti.stored_priors import prior_directory
from smalti.tokenizer import Tokenizer
from smalti.trained import TrainedModel, load_trained
from smalti.training.checkpoints import RESULTS, RunDirectory

SHOWN = 16
"""Maximum number of items in the figure of reconstructions."""
GRIDLESS = ("uniform", "unigram")
"""Priors over code grids of any size."""
COMPARED = 200
"""Maximum number of items that are also written in lossless formats, for comparison."""


def evaluate(
    run: str,
    data: str,
    split: str | None = None,
    batch_size: int = 100,
    quiet: bool = False,
    draws: int = 50,
    files: bool = False,
    size: Size = "model",
    features: bool = False,
) -> dict[str, Any]:
    """Evaluate a run on a source, and save `evaluation.json` and figures if the run is local.

    If the run's directory is not writable, a note reports that the results were not saved.

    Args:
        run: a run's directory, or a name on the Hub.
        data: a source.
        split: split of the source; None selects `test` if it exists, else `validation`.
        batch_size: items per batch.
        quiet: hide progress.
        draws: posterior samples per item, for models with a stochastic posterior.
        files: whether to compress the items to a real file, too, and restore them.
        size: "native" measures whole pictures of any height and width, without learned priors; "model"
            those of the size of the training.
        features: whether to compare reconstructions and samples with the originals in the features of a
            pretrained network.

    Raises:
        InputError: for a user error.
    """
    trained = load_trained(run)
    modality = trained.modality if size == "model" else _native(trained, files)
    tokenizer = None
    if features:
        evaluate_features.check_features(trained)
    if files:
        # On the CPU, as files of other devices could not be read elsewhere.
        tokenizer = Tokenizer(trained if trained.device.type == "cpu" else load_trained(run, "cpu"))
        check_files(tokenizer)
    source = open_data(data, modality)
    check_model(RunDirectory(trained.directory), model_of(source))
    name = pick_split(source, split, "test", "validation", "all")
    is_local = Path(run).expanduser().is_dir()
    with TemporaryDirectory(prefix="smalti-") as scratch:
        store = prepare(
            Path(scratch) / "data",
            source,
            name,
            modality,
            quiet=quiet,
            skipped_in=f"{RESULTS} in the run" if is_local else "what --json prints",
        ).with_names(trained.columns)
        labels = known_labels(trained, store)
        loader = open_loader(store, modality, trained.model, batch_size, trained.device, labels=labels)
        loader.voices = item_statistics(trained.model, modality, store, trained.label_ids)
        priors = [
            prior
            for prior in trained.priors.values()
            if ((labels >= 0).any() or not isinstance(prior, LabelPrior))
            and (size == "model" or prior.name in GRIDLESS)
        ]
        with counting("Evaluating", quiet) as count:
            batches = _counted(loader.sequential(), store.count, count)
            result = measure(trained.model, priors, batches, draws)
        report = _report(trained, modality, store, result, data, draws)
        if tokenizer is not None:
            report["files"] = measure_files(tokenizer, store, result.density, Path(scratch), quiet)
            report["protocol"]["files"] = PROTOCOL
        neighbours = None
        if features:
            report["features"], neighbours = evaluate_features.measure_features(
                trained, loader.sequential, store.count, quiet, with_samples=size == "model"
            )
            report["protocol"]["features"] = evaluate_features.PROTOCOL
        if is_local:
            _save(trained, modality, report, result, _shown(loader), neighbours)
    return report


def show(report: dict[str, Any], protocol: bool = False) -> None:
    """Print a report as tables, followed by its protocol if wanted."""
    from rich import print as show_table

    unit = "bits" if "bits_per_dim" in report else "nats"
    seen = f" ({number} trained on)" if (number := report.get("num_trained_on")) else ""
    items = amount(report["num"], "items")
    table = Table(title=f"{escape(printable(report['data']))}, split {report['split']}: {items}{seen}")
    for column in ("prior", f"{unit}/dim", "= rate", "+ distortion", "stderr", f"{unit}/code"):
        table.add_column(column, justify="left" if column == "prior" else "right")
    for name, row in report[f"{unit}_per_dim"].items():
        table.add_row(
            escape(printable(f"{name} | {', '.join(row['given'])}" if "given" in row else name)),
            *(_figure(row.get(key)) for key in (f"{unit}_per_dim", "rate", "distortion", "stderr")),
            _figure(_per_code(row, unit)),
        )
    for name, bits in report.get("lossless_bits_per_dim", {}).items():
        table.add_row(f"{name} (files)", _figure(bits))
    show_table(table)
    notes = (
        _note_of_pixels,
        _note_of_training_data,
        note_of_lossless,
        note_of_files,
        _note_of_density,
        evaluate_features.note_of_features,
    )
    for sentence in (each(report) for each in notes):
        if sentence is not None:
            show_table(escape(sentence))
    other = Table(show_header=False)
    other.add_column("measure")
    other.add_column("value", justify="right")
    for name, value in {**report["reconstruction"], **report["codebook"]}.items():
        if value is not None:
            other.add_row(name, _figure(value))
    show_table(other)
    for name, text in report["protocol"].items() if protocol else ():
        show_table(f"[dim]{escape(name)}: {escape(text)}[/dim]")
    if not protocol:
        show_table("[dim]Definitions of the figures: add --protocol.[/dim]")


def _per_code(row: dict[str, Any], unit: str) -> float | None:
    """Return the rate per code in the unit of the table."""
    nats = row.get("nats_per_code")
    return nats if nats is None or unit == "nats" else bits_per_dim(nats, 1)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _counted(batches: Iterable[Batch], total: int, progress: Callable[[int, int], None]) -> Iterator[Batch]:
    """Yield batches, and report the number of items after each one."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.data)
        progress(done, total)


def _shown(loader: Loader | CropLoader) -> list[Batch]:
    """Return the first items: whole pictures of native size, or the middle of sounds and clips."""
    if isinstance(loader, CropLoader) and loader.num_sides > 1:
        return list(islice(loader.sequential(), SHOWN))
    return [next(loader.watch(SHOWN))]


def _save(
    trained: TrainedModel,
    modality: Modality,
    report: dict[str, Any],
    result: Evaluation,
    batches: Sequence[Batch],
    neighbours: Image.Image | None,
) -> None:
    """Write the report and figures into the run; print a note instead of failing if that is impossible."""
    shown: list[Tensor] = []
    again: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        with torch.no_grad():
            made = trained.model.reconstruct(batch.data, batch.conditions, generator)
        shown += batch.data.cpu()
        again += made.cpu()
    figures = trained.directory / "figures"
    try:
        with atomic_file(trained.directory / RESULTS) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
        figures.mkdir(exist_ok=True)
        if result.counts is not None:
            usage_histogram(result.counts, figures / "usage_evaluation.png")
        modality.preview([shown, again]).save(figures / "reconstructions_evaluation.png")
        if neighbours is not None:
            neighbours.save(figures / "neighbours.png")
    except (InputError, OSError) as error:
        note(f"The report is not saved in the run: {error}")


def _lossless(trained: TrainedModel, store: Store) -> dict[str, Any]:
    """Return bits/dim of the same items in common lossless formats, as an entry of the report."""
    chosen = np.linspace(0, store.count - 1, min(store.count, COMPARED)).round().astype(int)
    figures = trained.modality.lossless(store.item(index) for index in chosen.tolist())
    return {"lossless_bits_per_dim": figures} if figures else {}


def note_of_lossless(report: dict[str, Any]) -> str | None:
    """Return a sentence if the model needs more bits than a lossless format; None if not."""
    bounds = [row["bits_per_dim"] for row in report.get("bits_per_dim", {}).values()]
    figures: dict[str, float] = report.get("lossless_bits_per_dim", {})
    better = [name for name, bits in figures.items() if bounds and bits < min(bounds)]
    if not better:
        return None
    verb = "needs" if len(better) == 1 else "need"
    return (
        f"{' and '.join(better)} {verb} fewer bits for these pictures than this model with any of its "
        "priors: usual for drawings and rendered pictures."
    )


def _num_trained_on(trained: TrainedModel, store: Store) -> int | None:
    """Return how many of the items the run was trained on; None if the run does not know."""
    known = read_fingerprints(trained.directory)
    return None if known is None else int(np.isin(fingerprints(store), known).sum())


def _note_of_pixels(report: dict[str, Any]) -> str | None:
    """Return a sentence that says which part of each item was measured; None for all of it."""
    measured = report.get("measured")
    return f"Measured: {measured}." if measured else None


def _native(trained: TrainedModel, files: bool) -> Modality:
    """Return the modality of pictures of native size.

    Raises:
        InputError: for clips, for a model that takes one size, or with real files.
    """
    modality = trained.modality.native()
    if modality.spec.has_time:
        raise InputError(
            f"expected pictures for --size native, received {modality.plural_name}: leave out --size"
        )
    if files:
        raise InputError("expected no --files with --size native, received both: leave one of them out")
    check_any_size(trained.autoencoder)
    return modality


def _note_of_training_data(report: dict[str, Any]) -> str | None:
    """Return a sentence if the run was trained on some of the items; None if not, or if it is not known."""
    seen, num = report.get("num_trained_on"), report["num"]
    if not seen:
        return None
    part = f"{seen} of these {num} items" if seen < num else "this item" if num == 1 else "these items"
    return (
        f"The run was trained on {part}: the figures do not show how good it is on other data. Evaluate "
        "held-out data."
    )


def _note_of_density(report: dict[str, Any]) -> str | None:
    """Return a sentence if priors of the run have no figures, because they only draw samples; None if not."""
    names = report.get("without_density")
    if not names:
        return None
    subject, verb = ("The prior", "has") if len(names) == 1 else ("The priors", "have")
    unit = "bits" if "bits_per_dim" in report else "nats"
    return f"{subject} {' and '.join(names)} {verb} no density, only samples: there are no {unit} to report."


def _report(
    trained: TrainedModel, modality: Modality, store: Store, result: Evaluation, data: str, draws: int
) -> dict[str, Any]:
    report = result.to_json()
    is_native = modality is not trained.modality
    if is_native and (left_out := sorted({*trained.priors} - {*GRIDLESS})):
        report["protocol"]["priors"] = f"without {', '.join(left_out)}, over grids of one size"
    lossless = _lossless(trained, store)
    if lossless:
        report["protocol"]["lossless_bits_per_dim"] = (
            f"size of the files of the same pixels, headers included; {min(store.count, COMPARED)} evenly "
            "spaced items"
        )
    report["protocol"] |= {f"data {name}": str(value) for name, value in store.protocol.items()}
    if any("+class" in name for name in result.density):
        report["protocol"]["+class"] = (
            "conditioned on the class; the rate includes log2(number of classes) bits for it"
        )
    return {
        "data": data,
        "split": store.split,
        "model": trained.fingerprint,
        "title": trained.model.title,
        "priors": {
            name: RunDirectory(prior_directory(trained.directory, name)).fingerprint()
            for name in trained.learned
        },
        "draws": draws,
        "measured": modality.portion,
        "num_trained_on": None if is_native else _num_trained_on(trained, store),
        "skipped": store.skipped,
        **report,
        **lossless,
    }
