"""Result records, one JSON object per model, seed and bound, and their tables."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from smalti.app.runs import DATA_DIRECTORY
from smalti.core.files import atomic_file
from smalti.data.loader import split_indices
from smalti.data.store import Store
from smalti.training.checkpoints import RunDirectory

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Read the records of a file; a missing file has no records."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write records to a file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))


def stage(run: Path, of_prior: str | None = None, of_model: Path | None = None) -> Record:
    """Summarize a training run: data, items, steps, batch size, seconds, commit and device.

    Args:
        run: directory of a finished run.
        of_prior: name of the prior, if the run trains a prior.
        of_model: the autoencoder's run, if this run pretrains its encoder.
    """
    directory = RunDirectory(run)
    config = directory.read_config("recipe")
    training = config["recipe"]["training"]
    model_run = of_model or (run if of_prior is None else run.parent)
    fraction = RunDirectory(model_run).read_config("recipe")["recipe"]["validation_fraction"]
    return {
        "prior": of_prior if of_model is None else "pretraining",
        "data": config.get("described"),
        "items": len(split_indices(Store.open(model_run / DATA_DIRECTORY).count, fraction)[0]),
        "steps": last_step(directory),
        "batch_size": training["batch_size"],
        "seconds": round(directory.seconds),
        "commit": config.get("commit", "unknown"),
        "device": config.get("device", "unknown"),
    }


def last_step(run: RunDirectory) -> int:
    """Return the last training step of a run."""
    return max((line["step"] for line in run.metrics()), default=0)


def caption(records: Sequence[Record]) -> str:
    """Return the paragraph above a table: definitions of the figures, training settings and data."""
    if not records:
        return "No results yet."
    first = records[0]
    nums = sorted({record["metrics"]["num"] for record in records})
    alike: dict[str, list[str]] = {}
    for entry, group in by(records, "entry").items():
        alike.setdefault(", then ".join(_trainings(group)), []).append(entry)
    trained = [
        f"{'each' if len(alike) == 1 else ', '.join(names)}: {words}" for words, names in alike.items()
    ]
    return (
        f"**{first['dataset']}**, {' and '.join(f'{num:,}' for num in nums)} items of the {first['split']} "
        f"split ({first['measured_on']}), budget {first['budget']}. Bits/dim are upper bounds; ± is the "
        'standard error over items, and over seeds in the column "over seeds". PSNR and codes used are '
        f"computed from the most probable latents. Training: {'; '.join(trained)}."
    )


def _trainings(records: Sequence[Record]) -> list[str]:
    """Describe each training of a model: the model first, then its priors."""
    words: dict[str, None] = {}
    for one in sorted((s for record in records for s in record["stages"]), key=lambda s: s["prior"] or ""):
        on = f"the codes ({one['prior']})" if one["prior"] else f"{one['items']:,} items of {one['data']}"
        words[f"{one['steps']:,} steps of {one['batch_size']} on {on}"] = None
    return list(words)


def by(records: Iterable[Record], *keys: str) -> dict[Any, list[Record]]:
    """Group records by the values of some keys; a single key is not wrapped in a tuple."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        values = tuple(record[key] for key in keys)
        groups.setdefault(values if len(keys) > 1 else values[0], []).append(record)
    return groups


def bounds_table(records: Sequence[Record], paper: dict[str, float]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a bits/dim table: one row per model and bound, averaged over seeds.

    Args:
        records: records of one study.
        paper: the paper's figures in bits/dim, by kind of model and bound.
    """
    header = ["", "model", "prior", "bits/dim", "over seeds", "rate + distortion", "PSNR", "codes used"]
    rows = []
    for (entry, model, prior), group in by(records, "entry", "model", "prior").items():
        metrics = [record["metrics"] for record in group]
        # Reconstruction metrics do not depend on the bound: show them once per model.
        reconstructed = [] if "draws" in prior else metrics
        rows.append(
            [
                entry,
                model,
                prior,
                f"{_mean(metrics, 'bits_per_dim')} ± {_mean(metrics, 'stderr')}",
                over_seeds([m["bits_per_dim"] for m in metrics]),
                f"{_mean(metrics, 'rate')} + {_mean(metrics, 'distortion')}",
                _mean(reconstructed, "psnr", ".2f"),
                _mean(reconstructed, "usage", ".1%"),
            ]
        )
        if paper:
            figure = paper.get(
                f"{group[0]['config']['model']['kind']} {re.sub(', .* draws', ', draws', prior)}"
            )
            rows[-1].append("" if figure is None else f"{figure:.2f}")
    return header + (["paper"] if paper else []), rows


def swaps_table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows comparing the likelihood approximation with sums over more codes."""
    most = max((len(record["metrics"]["swaps"]) for record in records), default=1)
    header = ["data", "prior", "the encoder's codes", *(f"+ {m} swapped" for m in range(1, most)), "gain"]
    rows = [
        [
            f"{record['dataset']} (n = {record['metrics']['num']})",
            record["prior"],
            *(f"{bits:.4f}" for bits in record["metrics"]["swaps"]),
            f"{record['metrics']['gain']:.4f} ± {record['metrics']['gain_stderr'] or 0:.4f}",
        ]
        for record in records
    ]
    return header, rows


def over_seeds(values: Sequence[float]) -> str:
    """Format the standard error of a mean over seeds, and the number of seeds."""
    num = len(values)
    return "1 seed" if num < 2 else f"± {standard_error(values):.3f} ({num} seeds)"


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean, or None for a single value."""
    num = len(values)
    if num < 2:
        return None
    mean = sum(values) / num
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (num - 1) / num)


def publish(folder: Path, records: Sequence[Record], quiet: bool) -> None:
    """Write records and their table to a folder, and print the table unless quiet."""
    write_records(folder / "records.jsonl", records)
    table = markdown(*metrics_table(records))
    with atomic_file(folder / "table.md") as temporary:
        temporary.write_text(table)
    if not quiet:
        print(table)


def metrics_table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: one row per record, one column per metric that any record has."""
    names: dict[str, None] = {}
    for record in records:
        names |= dict.fromkeys(record["metrics"])
    header = ["model", "prior", "seed", *names]
    rows = [
        [
            record["model"],
            record["prior"] or "-",
            str(record["seed"]),
            *(_cell(record["metrics"].get(name)) for name in names),
        ]
        for record in records
    ]
    return header, rows


def _cell(value: int | float | list[float] | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; text is left-aligned, numbers are right-aligned."""
    first = (rows or [header])[0]
    figures = [index > 0 and cell[:1] in tuple("0123456789±-") for index, cell in enumerate(first)]
    align = ["---:" if is_figure else "---" for is_figure in figures]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, align, *rows)) + "\n"


def _mean(metrics: Sequence[dict[str, float | None]], name: str, form: str = ".3f") -> str:
    """Format the mean of the available values; "-" if there are none."""
    known = [value for value in (m.get(name) for m in metrics) if value is not None]
    return format(sum(known) / len(known), form) if known else "-"
