"""`smalti reproduce`: train and measure the models of a study, write the records and one table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from smalti.app.console import note
from smalti.app.data import open_data, pick_split, prepare
from smalti.app.finished import SHOWN_ITEMS
from smalti.app.provenance import described, is_jpeg
from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.modality import Modality
from smalti.core.priors import DensityPrior
from smalti.core.suggestions import suggestion
from smalti.data.loader import Loader, evenly_spaced
from smalti.data.sources import Source
from smalti.data.store import Store
from smalti.evaluation.bounds import LabelPrior
from smalti.models.vqvae import VQVAE
from smalti.quantizers.vq import VectorQuantizer
from smalti.stored_priors import prior_directory
from smalti.studies.likelihood.approximation import next_nearest, with_swaps
from smalti.studies.likelihood.recipes import CLASSES, HUB_NAMES, Entry, Study, study
from smalti.studies.records import (
    Record,
    bounds_table,
    caption,
    markdown,
    stage,
    standard_error,
    swaps_table,
    write_records,
)
from smalti.studies.stages import evaluate_once, train_model_once, train_prior_once
from smalti.trained import TrainedModel
from smalti.training.checkpoints import RESULTS, RunDirectory
from smalti.training.loop import TrainingConfig

FIRST = "first"
"""Folder, beside the runs, for runs pretrained on other data."""
SWAPS = "swaps.json"


def reproduce(
    name: str,
    data: str | None,
    out: Path,
    part: str = "table",
    budget: str = "cpu",
    seeds: int = 1,
    pretrain: str | None = None,
    only: str | None = None,
    quiet: bool = False,
) -> list[Record]:
    """Train and evaluate every model of a study, and write records, a table and a picture.

    Models are evaluated on the test split. Finished stages are skipped, so the same command resumes an
    interrupted reproduction.

    Args:
        name: name of the data set.
        data: source for training and evaluation; None for the data set on the Hub.
        out: directory of runs, records and table, with one folder per study and budget.
        part: name of the study.
        budget: "tiny" for a smoke test, "cpu" for some hours on two cores, "paper" for the paper's steps.
        seeds: number of seeds, 0 to `seeds` - 1, for models that are cheap enough to repeat.
        pretrain: source for pretraining; `data` is then used for fine-tuning.
        only: name of a single model, to split the work among processes.
        quiet: hide progress.

    Returns:
        The records.

    Raises:
        InputError: for a user error.
    """
    chosen = study(name, part, budget)
    names = [entry.name for entry in chosen.entries]
    if only is not None and only not in names:
        raise InputError(f"expected a model of {chosen.name}, received {only!r}: {suggestion(only, names)}")
    data = data or HUB_NAMES[name]
    modality = chosen.entries[0].recipe.data.build()
    split = _measured_split(data, modality)
    if not _holds(name, data, open_data(data, modality), split):
        # The paper's figures are those of its data set.
        chosen = chosen.model_copy(update={"dataset": Path(data).name, "paper": {}})
    folder = out / f"{chosen.name}-{budget}"
    finished: list[tuple[Entry, int, Path]] = []
    for entry in chosen.entries:
        for seed in range(min(seeds, entry.most_seeds or seeds)):
            run = folder / f"{_file_name(entry.name)}-seed{seed}"
            if only is None or entry.name == only:
                note(f"{entry.name}, seed {seed}", quiet)
                _train(entry, seed, data, pretrain, run, quiet)
                evaluate_once(run, data, split, quiet, chosen.draws, list(entry.priors))
            if (run / RESULTS).is_file():
                finished.append((entry, seed, run))
    described_data = described(open_data(data, modality), split, data)
    records = [r for entry, seed, run in finished for r in _records(chosen, entry, seed, run)]
    with TemporaryDirectory(prefix="smalti-") as scratch:
        store = prepare(Path(scratch) / "data", open_data(data, modality), split, modality, quiet=True)
        _picture([run for _, seed, run in finished if seed == 0], store, folder)
        for entry, seed, run in finished:
            if chosen.swaps and seed == 0:
                records += _swaps(chosen, entry, run, store)
    records = [{**record, "budget": budget, "measured_on": described_data} for record in records]
    write_records(folder / "records.jsonl", records)
    _write_table(chosen, records, folder, quiet)
    note(f"The runs, records.jsonl, table.md and reconstructions.png are in {folder}.", quiet)
    return records


def _measured_split(data: str, modality: Modality) -> str:
    """Return the split to evaluate on.

    Raises:
        InputError: when there is no such split, or its pictures are JPEG-compressed.
    """
    source = open_data(data, modality)
    split = pick_split(source, None, "test", "validation")
    if split not in ("test", "validation"):
        raise InputError(
            f"expected data with a test split to evaluate on, found only {split!r} in {data}: add one"
        )
    if is_jpeg(source, split):
        raise InputError(
            f"expected lossless pictures to measure bits/dim, {data} holds JPEG: "
            "pass it as --pretrain, and the original pixels as --data"
        )
    return split


def _holds(name: str, data: str, source: Source, split: str) -> bool:
    """Return True if a source holds the named data set, as its name on the Hub or its classes show."""
    if data == HUB_NAMES[name]:
        return True
    labels = {_letters(item.label or "") for item in source.items(split)}
    return labels == {_letters(label) for label in CLASSES[name]}


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _train(entry: Entry, seed: int, data: str, pretrain: str | None, run: Path, quiet: bool) -> None:
    """Train a model and its priors, unless they are already trained."""

    def seeded(training: TrainingConfig) -> TrainingConfig:
        return training.model_copy(update={"seed": seed})

    recipe = entry.recipe.model_copy(update={"training": seeded(entry.recipe.training)})
    start = None
    if pretrain is not None:
        start = run.parent / FIRST / run.name
        train_model_once(recipe, pretrain, start, quiet)
        recipe = recipe.model_copy(update={"training": seeded(entry.fine_tuning or recipe.training)})
    train_model_once(recipe, data, run, quiet, start)
    for name, prior in entry.priors.items():
        train_prior_once(prior.model_copy(update={"training": seeded(prior.training)}), run, quiet, name)


def _records(chosen: Study, entry: Entry, seed: int, run: Path) -> Iterator[Record]:
    """Return one record for each bound of a run."""
    report = json.loads((run / RESULTS).read_text())
    for name, row in report["bits_per_dim"].items():
        prior = name.split("+")[0].split(",")[0]
        metrics = {**row, **report["reconstruction"], **report["codebook"], "num": report["num"]}
        yield {
            **_record(chosen, entry.name, seed, run, prior if prior in entry.priors else None),
            "split": report["split"],
            "model": report["title"],
            "prior": name,
            "metrics": metrics,
        }


def _record(chosen: Study, entry: str, seed: int, run: Path, prior: str | None) -> Record:
    """Return the fields common to all records of a run, and the training of its learned prior if any."""
    first = run.parent / FIRST / run.name
    stages = [stage(path) for path in (first, run) if path.is_dir()]
    own, config = stages[-1], RunDirectory(run).read_config("recipe")["recipe"]
    if prior is not None:
        path = prior_directory(run, prior)
        stages.append(stage(path, prior))
        config = {**config, "prior": RunDirectory(path).read_config("recipe")["recipe"]}
    return {
        "experiment": chosen.name,
        "dataset": chosen.dataset,
        "entry": entry,
        "seed": seed,
        "steps": sum(one["steps"] for one in stages),
        "seconds": sum(one["seconds"] for one in stages),
        "device": own["device"],
        "commit": own["commit"],
        "config": config,
        "stages": stages,
        "note": chosen.question,
    }


def _swaps(chosen: Study, entry: Entry, run: Path, store: Store) -> Iterator[Record]:
    """Measure the likelihood approximation once, and return its records; none for a model without codes to
    swap."""
    trained = TrainedModel.load(run)
    model = trained.model
    quantizer = model.quantizer if isinstance(model, VQVAE) else None
    if not isinstance(model, VQVAE) or not isinstance(quantizer, VectorQuantizer):
        return
    densities = [prior for prior in trained.priors.values() if isinstance(prior, DensityPrior)]
    priors = [prior for prior in densities if not isinstance(prior, LabelPrior)]
    report = json.loads((run / RESULTS).read_text())
    about = {
        "model": trained.fingerprint,
        "priors": report["priors"],
        "data": report["data"],
        "neighbours": chosen.swaps,
        "items": chosen.swapped_items,
    }
    saved = json.loads((run / SWAPS).read_text()) if (run / SWAPS).is_file() else {}
    if saved.get("about") != about:
        items = _items(trained, store, chosen.swapped_items)
        measured = with_swaps(
            model, priors, items, lambda x: next_nearest(model.encoder(x), quantizer, chosen.swaps)
        )
        saved = {"about": about, "bits": {name: bits.tolist() for name, bits in measured.items()}}
        with atomic_file(run / SWAPS) as temporary:
            temporary.write_text(json.dumps(saved))
    for name, bits in saved["bits"].items():
        means = np.mean(bits, 0)
        gains = [item[0] - item[-1] for item in bits]
        metrics = {
            "swaps": means.tolist(),
            "bits_per_dim": means[0],
            "stderr": standard_error([item[0] for item in bits]),
            "gain": float(np.mean(gains)),
            "gain_stderr": standard_error(gains),
            "num": len(bits),
        }
        yield {
            **_record(chosen, entry.name, 0, run, name if name in entry.priors else None),
            "split": report["split"],
            "model": report["title"],
            "prior": name,
            "metrics": metrics,
            "note": "entry m of swaps: bits/dim from the sum over the encoder's codes and all grids that "
            "differ from them at one place, by one of its m next-nearest codes; items evenly spread",
        }


def _picture(runs: Sequence[Path], store: Store, folder: Path) -> None:
    """Write a picture of test items above each model's reconstructions, in the order of the table."""
    rows: list[torch.Tensor] = []
    for run in runs:
        trained = TrainedModel.load(run, load_priors=False)
        shown = torch.cat([batch.data for batch in _items(trained, store, SHOWN_ITEMS)])
        rows = rows or [shown.cpu()]
        with torch.no_grad():
            rows.append(trained.model.reconstruct(shown).cpu())
        trained.modality.preview(rows).save(folder / "reconstructions.png")


def _items(trained: TrainedModel, store: Store, num: int) -> Iterator[Batch]:
    """Yield batches of `num` evenly spaced items of a store."""
    loader = Loader(store, batch_size=10, device=trained.device, to_model=trained.modality.to_model)
    for positions in torch.from_numpy(evenly_spaced(np.arange(store.count), num)).split(10):
        yield loader.items(positions.numpy())


def _write_table(chosen: Study, records: list[Record], folder: Path, quiet: bool) -> None:
    """Write `table.md`, and print the same table."""
    bounds = [record for record in records if "swaps" not in record["metrics"]]
    swaps = [record for record in records if "swaps" in record["metrics"]]
    header, rows = bounds_table(bounds, chosen.paper)
    text = f"{caption(bounds)}\n\n{markdown(header, rows)}"
    if swaps:
        text += f"\n{swaps[0]['note']}:\n\n{markdown(*swaps_table(swaps))}"
    with atomic_file(folder / "table.md") as temporary:
        temporary.write_text(text)
    if quiet:
        return
    table = Table(title=f"{chosen.question}\n{caption(bounds)}".replace("**", ""), title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < 3 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)
