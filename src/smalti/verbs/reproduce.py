"""`smalti reproduce`: train and measure the models of a study, write the records and one table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from smalti.data.loader import Loader
from smalti.data.store import Store
from smalti.evaluation.approximation import with_swaps
from smalti.files import atomic_file
from smalti.interfaces import Batch, InputError
from smalti.models.vqvae import VQVAE
from smalti.recipes.studies import Entry, Study, study
from smalti.trained import TrainedModel, prior_directory
from smalti.training.checkpoints import RunDirectory
from smalti.training.loop import TrainingConfig
from smalti.verbs.console import note
from smalti.verbs.data import open_data, pick_split, prepare
from smalti.verbs.evaluate import RESULTS, evaluate
from smalti.verbs.records import Record, bounds_table, commit, device, markdown, write_records
from smalti.verbs.runs import DATA_DIRECTORY
from smalti.verbs.train import SHOWN_ITEMS, spread, train_recipe
from smalti.verbs.train_prior import train_prior_recipe

FIRST = "first"
"""Folder, beside the runs, of those on other data."""


def reproduce(
    name: str,
    data: str,
    out: Path,
    part: str = "table",
    budget: str = "cpu",
    seeds: int = 1,
    pretrain: str | None = None,
    only: str | None = None,
    quiet: bool = False,
) -> list[Record]:
    """Train every model of a study, measure it on the test split, write records, a table and a picture.

    What is finished is not done again, so that the same command goes on after a stop.

    Args:
        name: of the data set's studies.
        data: the source to train on and to measure on.
        out: where runs, records and table go; a folder for each study.
        part: which of the studies.
        budget: "tiny" to see it run, "cpu" for an hour or two on two cores, "paper" for the paper's steps.
        seeds: 0 to `seeds` - 1, of those models that are cheap enough to be repeated.
        pretrain: a source to train on first; `data` is then for fine-tuning.
        only: name of one model, to share the work among processes.
        quiet: show no progress.

    Returns:
        The records.

    Raises:
        InputError: for a user's mistake.
    """
    chosen = study(name, part, budget)
    names = [entry.name for entry in chosen.entries]
    if only is not None and only not in names:
        raise InputError(
            f"expected a model of {chosen.name}, received {only!r}: there are {', '.join(names)}"
        )
    split = pick_split(open_data(data), None, "test", "validation")
    if split not in ("test", "validation"):
        raise InputError(
            f"expected data with a test split to measure on, found only {split!r} in {data}: add one"
        )
    folder = out / chosen.name
    records: list[Record] = []
    for entry in chosen.entries:
        for seed in range(min(seeds, entry.most_seeds)):
            run = folder / f"{_file_name(entry.name)}-seed{seed}"
            if only is None or entry.name == only:
                _train(entry, seed, data, pretrain, run, quiet)
                _measure(chosen, entry, data, split, run, quiet)
            if (run / RESULTS).is_file():
                records += _records(chosen, entry, seed, run)
    if chosen.swaps:
        records += _swaps(chosen, folder, data, split)
    write_records(folder / "records.jsonl", records)
    _picture(chosen, folder, data, split)
    header, rows = bounds_table([r for r in records if "swaps" not in r["metrics"]], chosen.paper)
    caption = _caption(chosen, budget, records)
    with atomic_file(folder / "table.md") as temporary:
        temporary.write_text(f"{caption}\n\n{markdown(header, rows)}")
    if not quiet:
        _show(caption, header, rows)
    note(f"The runs, records.jsonl, table.md and reconstructions.png are in {folder}.", quiet)
    return records


def _train(entry: Entry, seed: int, data: str, pretrain: str | None, run: Path, quiet: bool) -> None:
    """Train a model and its priors, unless that was done."""

    def seeded(training: TrainingConfig) -> TrainingConfig:
        return training.model_copy(update={"seed": seed})

    recipe = entry.recipe.model_copy(update={"training": seeded(entry.recipe.training)})
    note(f"{entry.name}, seed {seed}", quiet)
    if pretrain is None:
        _unless_done(run, recipe.training, lambda: train_recipe(recipe, data, run, quiet))
    else:
        first = run.parent / FIRST / run.name
        _unless_done(first, recipe.training, lambda: train_recipe(recipe, pretrain, first, quiet))
        tuned = recipe.model_copy(update={"training": seeded(entry.fine_tuning or recipe.training)})
        _unless_done(run, tuned.training, lambda: train_recipe(tuned, data, run, quiet, first))
    for name, prior in entry.priors.items():
        seeded_prior = prior.model_copy(update={"training": seeded(prior.training)})
        _unless_done(
            prior_directory(run, name),
            prior.training,
            lambda name=name, recipe=seeded_prior: train_prior_recipe(run, recipe, quiet, name),
        )


def _unless_done(run: Path, training: TrainingConfig, train: Any) -> None:
    lines = RunDirectory(run).metrics()
    finished = any(line["step"] == training.steps for line in lines) and (run / "figures").is_dir()
    if not finished:
        train()


def _measure(chosen: Study, entry: Entry, data: str, split: str, run: Path, quiet: bool) -> None:
    """Evaluate a run, unless its weights and all its priors were evaluated already."""
    if (run / RESULTS).is_file():
        report = json.loads((run / RESULTS).read_text())
        measured = report["model"] == RunDirectory(run).fingerprint() and report["split"] == split
        if measured and set(entry.priors) <= set(report["bits_per_dim"]):
            return
    evaluate(str(run), data, split, quiet=quiet, draws=chosen.draws)


def _records(chosen: Study, entry: Entry, seed: int, run: Path) -> Iterator[Record]:
    """One record for each bound of a run."""
    report = json.loads((run / RESULTS).read_text())
    config = RunDirectory(run).read_config("recipe")["recipe"]
    for name, row in report["bits_per_dim"].items():
        prior = name.split("+")[0].split(",")[0]
        stages = _stages(run, prior if prior in entry.priors else None)
        yield {
            "experiment": chosen.name,
            "entry": entry.name,
            "dataset": chosen.dataset,
            "split": report["split"],
            "model": report["title"],
            "prior": name,
            "metrics": {**row, **report["reconstruction"], **report["codebook"], "num": report["num"]},
            "seed": seed,
            "steps": sum(_steps(stage) for stage in stages),
            "seconds": round(sum(RunDirectory(stage).seconds for stage in stages)),
            "device": device(),
            "commit": commit(),
            "config": config,
            "note": _trained_on(run),
        }


def _swaps(chosen: Study, folder: Path, data: str, split: str) -> Iterator[Record]:
    """Records of the likelihood's approximation, for the first seed of each VQ-VAE of a study."""
    for entry in chosen.entries:
        run = folder / f"{_file_name(entry.name)}-seed0"
        if entry.recipe.model.kind != "vqvae" or not (run / RESULTS).is_file():
            continue
        trained = TrainedModel.load(run)
        assert isinstance(trained.model, VQVAE)
        priors = [prior for prior in trained.priors.values() if not prior.takes_labels]
        batches = _items(trained, data, split, chosen.swapped_items)
        swapped = ((batch, trained.model.neighbours(batch.data, chosen.swaps)) for batch in batches)
        for name, bits in with_swaps(trained.model, priors, swapped).items():
            yield {
                "experiment": chosen.name,
                "entry": f"{entry.name}, sum over swapped codes",
                "dataset": chosen.dataset,
                "split": split,
                "model": trained.model.title,
                "prior": name,
                "metrics": {"swaps": bits, "bits_per_dim": bits[0], "num": chosen.swapped_items},
                "seed": 0,
                "steps": _steps(run),
                "seconds": round(RunDirectory(run).seconds),
                "device": device(),
                "commit": commit(),
                "config": RunDirectory(run).read_config("recipe")["recipe"],
                "note": "entry m of swaps: bits/dim from the sum over the encoder's codes and all grids that "
                "differ from them at one place, by one of its m next-nearest codes; items evenly spread "
                f"over the split; {_trained_on(run)}",
            }


def _picture(chosen: Study, folder: Path, data: str, split: str) -> None:
    """Test items above what each model makes of them, in the order of the table."""
    runs = [folder / f"{_file_name(entry.name)}-seed0" for entry in chosen.entries]
    rows = []
    for run in [run for run in runs if (run / RESULTS).is_file()]:
        trained = TrainedModel.load(run, load_priors=False)
        shown = torch.cat([batch.data for batch in _items(trained, data, split, SHOWN_ITEMS)])
        rows = rows or [shown.cpu()]
        with torch.no_grad():
            rows.append(trained.model.reconstruct(shown).cpu())
        trained.modality.preview(rows).save(folder / "reconstructions.png")


def _items(trained: TrainedModel, data: str, split: str, num: int) -> Iterator[Batch]:
    """Some items of a split, evenly spread over it."""
    with TemporaryDirectory(prefix="smalti-") as scratch:
        store = prepare(Path(scratch) / "data", open_data(data), split, trained.modality, quiet=True)
        loader = Loader(store, batch_size=10, device=trained.device, to_model=trained.modality.to_model)
        for positions in torch.from_numpy(spread(np.arange(store.count), num)).split(10):
            yield loader.items(positions.numpy())


def _stages(run: Path, prior: str | None) -> list[Path]:
    """The runs whose training a figure rests on."""
    first = run.parent / FIRST / run.name
    stages = [first, run] if first.is_dir() else [run]
    return stages if prior is None else [*stages, prior_directory(run, prior)]


def _steps(run: Path) -> int:
    return max((line["step"] for line in RunDirectory(run).metrics()), default=0)


def _trained_on(run: Path) -> str:
    """In words, and without the names of a user's folders."""

    def items(stage: Path) -> str:
        return f"{_steps(stage):,} steps on {Store.open(stage / DATA_DIRECTORY).count:,} items"

    return ", then ".join(items(stage) for stage in _stages(run, None))


def _caption(chosen: Study, budget: str, records: list[Record]) -> str:
    """What was trained on what, and what the figures are."""
    trained = sorted({f"{record['entry']}: {record['note'].split('; ')[-1]}" for record in records})
    num = records[0]["metrics"]["num"] if records else 0
    split = records[0]["split"] if records else "no"
    paper = (
        " The paper's figures are those of its table; it trained 250,000 steps of 128 on 50,000 images, "
        "and does not say which of VIMCO's bounds it gives."
        if chosen.paper
        else ""
    )
    return (
        f"**{chosen.dataset}: {chosen.question}** (budget {budget}). Bits/dim on {num:,} items of the split "
        f"{split}, upper bounds; ± is the standard error over items, and over seeds where there are several. "
        f"Trained: {'; '.join(trained)}.{paper}"
    )


def _show(caption: str, header: list[str], rows: list[list[str]]) -> None:
    table = Table(title=caption.replace("**", ""), title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < 3 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)
