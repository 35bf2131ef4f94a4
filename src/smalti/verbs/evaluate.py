"""`smalti evaluate`: bits/dim, reconstruction and codebook use of a run on data that it has not seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from smalti.data.loader import Loader
from smalti.data.store import Store
from smalti.evaluation.evaluate import Evaluation
from smalti.evaluation.evaluate import evaluate as measure
from smalti.evaluation.figures import usage_histogram
from smalti.files import atomic_file
from smalti.interfaces import Batch, InputError
from smalti.tokenizer import Tokenizer, load
from smalti.verbs.console import counting, note
from smalti.verbs.data import open_data, pick_split, prepare

RESULTS = "evaluation.json"


def evaluate(
    run: str, data: str, split: str | None = None, batch_size: int = 100, quiet: bool = False
) -> dict[str, Any]:
    """Measure a run on a source; prints no result, saves `evaluation.json` and figures into a local run.

    A run that cannot be written to is measured all the same, and a note says that nothing was saved.

    Args:
        run: a run's directory, or a name on the Hub.
        data: a source.
        split: of the source; None prefers test, then validation.
        batch_size: items at a time.
        quiet: show no progress.

    Raises:
        InputError: for a user's mistake.
    """
    tokenizer = load(run)
    source = open_data(data)
    name = pick_split(source, split, "test", "validation", "all")
    is_local = Path(run).expanduser().is_dir()
    with TemporaryDirectory(prefix="smalti-") as scratch:
        store = prepare(
            Path(scratch) / "data",
            source,
            name,
            tokenizer.modality,
            quiet=quiet,
            skipped_in=f"{RESULTS} in the run" if is_local else "what --json prints",
        )
        labels = _labels(tokenizer, store)
        loader = Loader(
            store,
            labels,
            batch_size=batch_size,
            device=tokenizer.device,
            to_model=tokenizer.modality.to_model,
        )
        priors = {
            name: prior
            for name, prior in tokenizer.priors.items()
            if not prior.takes_labels or (labels >= 0).any()
        }
        with counting("Measuring", quiet) as count:
            batches = _counted(loader.sequential(), store.count, count)
            result = measure(tokenizer.autoencoder, priors, batches)
        report = _report(tokenizer, store, result, data)
        if is_local:
            shown = next(loader.sequential()).data[:16].cpu()
            _save(tokenizer, report, result, shown)
    return report


def show(report: dict[str, Any]) -> None:
    """Print a report as tables, and the protocol under them."""
    from rich import print as show_table

    table = Table(title=f"{escape(report['data'])}, split {report['split']}: {report['num']} items")
    for column in ("prior", "bits/dim", "= rate", "+ distortion", "stderr", "nats/code"):
        table.add_column(column, justify="left" if column == "prior" else "right")
    for name, row in report["bits_per_dim"].items():
        table.add_row(
            name,
            *(_figure(row[key]) for key in ("bits_per_dim", "rate", "distortion", "stderr", "nats_per_code")),
        )
    show_table(table)
    other = Table(show_header=False)
    other.add_column("measure")
    other.add_column("value", justify="right")
    for name, value in {**report["reconstruction"], **report["codebook"]}.items():
        other.add_row(name, _figure(value))
    show_table(other)
    for name, text in report["protocol"].items():
        show_table(f"[dim]{escape(name)}: {escape(text)}[/dim]")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _counted(batches: Iterable[Batch], total: int, progress: Callable[[int, int], None]) -> Iterator[Batch]:
    """The batches; each is counted when the next is asked for."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.data)
        progress(done, total)


def _save(tokenizer: Tokenizer, report: dict[str, Any], result: Evaluation, shown: Tensor) -> None:
    """Write the report and figures into the run, or note why not: what was measured is not to be lost."""
    again = tokenizer.modality.to_model(tokenizer.reconstruct(shown))
    figures = tokenizer.directory / "figures"
    try:
        with atomic_file(tokenizer.directory / RESULTS) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
        figures.mkdir(exist_ok=True)
        usage_histogram(result.counts, figures / "usage_evaluation.png")
        tokenizer.modality.preview([shown, again]).save(figures / "reconstructions_evaluation.png")
    except (InputError, OSError) as error:
        note(f"The report is not saved in the run: {error}")


def _labels(tokenizer: Tokenizer, store: Store) -> np.ndarray:
    """The data's labels as the tokenizer numbers its classes; -1 for classes that it does not know."""
    names = [tokenizer.recipe.class_names.get(name, name) for name in store.classes]
    known = [tokenizer.classes.index(name) if name in tokenizer.classes else -1 for name in names]
    return np.array([*known, -1], dtype=np.int64)[store.labels]


def _report(tokenizer: Tokenizer, store: Store, result: Evaluation, data: str) -> dict[str, Any]:
    report = result.to_json()
    report["protocol"] |= {f"data {name}": str(value) for name, value in store.protocol.items()}
    report["protocol"]["codebook"] = tokenizer.recipe.model.quantizer.codebook.mode
    if "learned+class" in report["bits_per_dim"]:
        report["protocol"]["learned+class"] = (
            "the class is told, and log2(number of classes) bits are paid for it"
        )
    return {
        "data": data,
        "split": store.split,
        "model": tokenizer.fingerprint,
        "skipped": store.skipped,
        **report,
    }
