"""`smalti compare`: train every quantizer under the same network, data, budget and search; one table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from smalti.app.console import note
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.parts import QuantizerConfig
from smalti.studies.quantizers import search
from smalti.studies.quantizers.autoencoders import AutoencoderExperiment
from smalti.studies.quantizers.entries import Entry, entries_of
from smalti.studies.quantizers.experiment import Experiment
from smalti.studies.quantizers.gaussian import GAUSSIAN, GaussianExperiment
from smalti.studies.quantizers.known import KnownRecords, Searched
from smalti.studies.quantizers.report import write_report
from smalti.studies.quantizers.tasks import DIVERGED, Task, perform
from smalti.studies.records import Record, read_records, write_records

SETTINGS = "compare.json"
TIMES = "times.json"
RUNS = "runs"
RECORDS = "records.jsonl"
MOST_POSITION_BITS = 1024
"""Bits at a position, above which a model would have thousands of codebooks."""
MOST_RATIO = 2.0
"""Ratio of a quantizer's rate to that asked for, above which the table would compare different rates."""


@final
@dataclass(frozen=True)
class Contender:
    """A quantizer at a rate.

    Attributes:
        name: as the user gave it.
        bits: nominal bits an item that were asked for; None for settings of the user's own.
        config: with the default loss weights.
        entry: what is searched.
        folder: of its runs.
    """

    name: str
    bits: float | None
    config: QuantizerConfig
    entry: Entry
    folder: Path

    @property
    def title(self) -> str:
        """Name, with the rate that was asked for."""
        return self.name if self.bits is None else f"{self.name}, {self.bits:g} bits"


@final
@dataclass(frozen=True)
class Unit:
    """A training with the whole budget.

    Attributes:
        contender: quantizer and rate.
        searched: the chosen loss weights, and the trials.
        seed: of the training.
        config: the quantizer with the chosen weights.
        task: training and evaluation.
    """

    contender: Contender
    searched: Searched
    seed: int
    config: QuantizerConfig
    task: Task


def compare(
    words: Sequence[str],
    data: str,
    out: Path,
    recipe: str | None = None,
    bits: Sequence[float] = (),
    steps: int | None = None,
    prior_steps: int | None = None,
    seeds: int = 3,
    num_trials: int = 3,
    fraction: float = 0.25,
    jobs: int = 1,
    known: Sequence[Record] = (),
    quiet: bool = False,
) -> list[Record]:
    """Train and measure quantizers, and write records, tables, a plot and a page.

    Finished parts are skipped, so the same command goes on after an interruption; quantizers, rates and
    seeds can be added. What the records in `out` tell is not trained again, even if its run was deleted.

    Args:
        words: quantizers (see `entries_of`), and `key=value` settings of the recipe or of Gaussian vectors.
        data: a source with a test split, or "gaussian".
        out: directory of runs and results.
        recipe: name of a recipe; None for "image".
        bits: nominal bits an item, for quantizers given by name.
        steps: training steps of each model; None for those of the recipe.
        prior_steps: training steps of each learned prior; None for those of the recipe.
        seeds: number of seeds, 0 to `seeds` - 1.
        num_trials: settings of the loss weights to search, odd; 1 keeps the defaults.
        fraction: share of the steps that a trial of the search trains.
        jobs: number of processes.
        known: records of the same comparison made elsewhere. What they tell is not trained again, and they
            are among the results. Those of other data, networks or budgets are left out.
        quiet: hide progress.

    Returns:
        The records.

    Raises:
        InputError: for a user error, or if some trainings failed; the results of the others are written.
    """
    search.check_number(num_trials)
    named, assignments = split_words(words)
    entries = entries_of(named)
    experiment = _experiment(recipe, data, assignments, out, steps, prior_steps, fraction, quiet)
    contenders = list(_contenders(entries, bits, experiment, out / RUNS))
    _check_settings(out, {**experiment.settings(), "search_trials": num_trials})
    before = KnownRecords([*read_records(out / RECORDS), *known], experiment, num_trials)
    searched, failed = _search(contenders, experiment, before, num_trials, jobs, quiet)
    units = [
        _unit(contender, searched[contender.title], seed, experiment)
        for contender in contenders
        if contender.title in searched
        for seed in range(seeds)
    ]
    records = _measure(units, experiment, before, failed, jobs, quiet)
    write_records(out / RECORDS, records)
    pictures = {
        contender.title: experiment.pictures(contender.folder / "seed0")
        for contender in contenders
        if any((record["entry"], record["seed"]) == (contender.title, 0) for record in records)
    }
    write_report(out, records, experiment, pictures, failed, quiet)
    if failed:
        title, reason = next(iter(failed.items()))
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise InputError(f"{title} failed{others}: {reason}")
    return records


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate quantizers from `key=value` settings of the recipe; a quantizer's own begin with `kind=`."""
    named = [word for word in words if "=" not in word or word.startswith("kind=")]
    return named, [word for word in words if word not in named]


def _experiment(
    recipe: str | None,
    data: str,
    assignments: Sequence[str],
    out: Path,
    steps: int | None,
    prior_steps: int | None,
    fraction: float,
    quiet: bool,
) -> Experiment:
    if data == GAUSSIAN and not Path(data).exists():
        for option, value in (("--recipe", recipe), ("--prior-steps", prior_steps)):
            if value is not None:
                raise InputError(
                    f"expected no {option} for Gaussian vectors, which have networks of their own and no "
                    f"learned prior, received {value}: leave it out"
                )
        return GaussianExperiment(assignments, out, steps, fraction)
    return AutoencoderExperiment(
        recipe or "image", data, assignments, out, steps, prior_steps, fraction, quiet
    )


def _contenders(
    entries: dict[str, Entry], rates: Sequence[float], experiment: Experiment, runs: Path
) -> Iterator[Contender]:
    """Every quantizer at every rate; one given by its settings has a rate of its own.

    Raises:
        InputError: if a rate is missing, not finite or not above 0, if a quantizer cannot have it, or if two
            would share a directory.
    """
    folders: dict[Path, str] = {}
    if not rates and not all(entry.is_fixed for entry in entries.values()):
        raise InputError("expected the bits of an item, received none: add for example --bits 441")
    for bits in rates:
        if not 0 < bits < float("inf"):
            raise InputError(f"expected finite bits above 0, received {bits:g}: correct --bits")
    for name, entry in entries.items():
        for bits in (None,) if entry.is_fixed else dict.fromkeys(rates):
            target = experiment.target(bits or 1.0)
            if bits is not None and target.bits > MOST_POSITION_BITS:
                raise InputError(
                    f"expected at most {MOST_POSITION_BITS:,} bits at each position, received --bits "
                    f"{bits:g}, {target.bits:,.0f} at each: use fewer bits"
                )
            config = entry.nearest(target)
            nominal = experiment.nominal_bits(config)  # refuses what does not fit
            if bits is not None and not bits / MOST_RATIO <= nominal <= bits * MOST_RATIO:
                raise InputError(
                    f"expected bits that {name} can come near to, received --bits {bits:g}, and the nearest "
                    f"is {nominal:,.4g}: use other bits, or leave {name} out"
                )
            folder = runs / (name if bits is None else f"{name}-{bits:g}bits")
            contender = Contender(name, bits, config, entry, folder)
            if folder in folders:
                raise InputError(
                    f"expected quantizers and rates whose names differ, received {folders[folder]!r} and "
                    f"{contender.title!r}, which would share {folder.name}: rename one, or leave it out"
                )
            folders[folder] = contender.title
            yield contender


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Save the settings that all runs share, or check that they are the same.

    Raises:
        InputError: if the directory holds a comparison with other settings, or other files.
    """
    path = out / SETTINGS
    if not path.is_file():
        if out.is_dir() and (taken := sorted(file.name for file in out.iterdir())):
            raise InputError(
                f"expected a new or empty directory, or a comparison to go on with: {out} holds {taken[0]} "
                f"and no {SETTINGS}; choose another --out"
            )
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
        return
    before, now = _flat(json.loads(path.read_text())), _flat(settings)
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise InputError(
                f"{out} holds a comparison with {key}={before.get(key)}, received {now.get(key)}: choose "
                "another --out, or use the same settings to go on"
            )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        key: value
        for name, inner in values.items()
        for key, value in _flat(inner, f"{prefix}.{name}" if prefix else name).items()
    }


def _settings_to_try(contender: Contender, num: int) -> list[tuple[search.Weights, Path]]:
    """Loss weights of each trial, and its directory; empty if there is nothing to choose."""
    tried = search.trials(contender.config, contender.entry.weights, num)
    if len(tried) < 2:
        return []
    return [(weights, contender.folder / f"search{number}") for number, weights in enumerate(tried)]


def _search(
    contenders: Sequence[Contender],
    experiment: Experiment,
    before: KnownRecords,
    num: int,
    jobs: int,
    quiet: bool,
) -> tuple[dict[str, Searched], dict[str, str]]:
    """Choose the loss weights of each contender.

    Returns:
        The choices and the failures, by title.
    """
    searched: dict[str, Searched] = {}
    failed: dict[str, str] = {}
    for contender in contenders:
        found = before.searched(contender.title, contender.config, contender.entry.weights)
        if found is not None:
            searched[contender.title] = found
    missing = [contender for contender in contenders if contender.title not in searched]
    reasons = perform(list(_trials(missing, experiment, num)), jobs, quiet)
    for contender in missing:
        try:
            searched[contender.title] = _searched(contender, experiment, num, reasons)
        except InputError as error:
            failed[contender.title] = str(error)
    return searched, failed


def _trials(contenders: Sequence[Contender], experiment: Experiment, num: int) -> Iterator[Task]:
    for contender in contenders:
        for weights, path in _settings_to_try(contender, num):
            yield experiment.trial(_trial_title(contender, weights), contender.config.changed(weights), path)


def _trial_title(contender: Contender, weights: search.Weights) -> str:
    return f"{contender.title}, search {search.described(weights)}"


def _searched(contender: Contender, experiment: Experiment, num: int, reasons: Mapping[str, str]) -> Searched:
    """Choose the loss weights.

    Raises:
        InputError: if no trial has a finite loss, or one failed for another reason. It may succeed when the
            command is repeated, and change the choice, so nothing is trained with the weights of the others.
    """
    scores, reason = [], None
    for weights, path in _settings_to_try(contender, num):
        reason = reasons.get(_trial_title(contender, weights))
        if reason is None:
            scores.append((weights, experiment.score(path)))
        elif (path / DIVERGED).is_file():
            scores.append((weights, float("inf")))
        else:
            raise InputError(f"search {search.described(weights)}: {reason}")
    if scores and all(score == float("inf") for _, score in scores):
        raise InputError(f"no trial of the search has a finite score: {reason}")
    chosen = search.best(scores) if scores else {}
    trials = [{"weights": w, "score": None if s == float("inf") else s} for w, s in scores]
    return chosen, trials


def _unit(contender: Contender, searched: Searched, seed: int, experiment: Experiment) -> Unit:
    config = contender.config.changed(searched[0])
    title, path = f"{contender.title}, seed {seed}", contender.folder / f"seed{seed}"
    return Unit(contender, searched, seed, config, experiment.unit(title, config, seed, path))


def _measure(
    units: Sequence[Unit],
    experiment: Experiment,
    before: KnownRecords,
    failed: dict[str, str],
    jobs: int,
    quiet: bool,
) -> list[Record]:
    """Train the units that have neither a finished run nor a known record; return the records of all.

    Args:
        failed: errors by title, to which those of units are added.
    """
    known: dict[str, Record] = {}
    for unit in units:
        if not unit.task.is_done():
            record = before.unit(unit.contender.title, unit.config, unit.seed)
            known |= {} if record is None else {unit.task.title: record}
    if known:
        note(f"{len(known)} of {len(units)} trainings are known from records.", quiet)
    failed |= perform([unit.task for unit in units if unit.task.title not in known], jobs, quiet)
    records = []
    for unit in units:
        title = unit.task.title
        if title in failed:
            continue
        try:
            records.append(known[title] if title in known else _record(unit, experiment, quiet))
        except InputError as error:
            failed[title] = str(error)
    return records


def _record(unit: Unit, experiment: Experiment, quiet: bool) -> Record:
    contender, path = unit.contender, unit.task.path
    measured = experiment.measured(path)
    times = _times(path, unit.task.title, experiment, quiet)
    weights, trials = unit.searched
    return {
        "experiment": "compare",
        "entry": contender.title,
        "quantizer": getattr(contender.config, "kind", contender.name),
        "seed": unit.seed,
        **measured,
        "asked_bits": contender.bits,
        "weights": weights,
        "search": trials,
        "threads": int(times.pop("threads")),
        "metrics": {"bits": measured["bits"], **measured["metrics"], **times},
    }


def _times(path: Path, title: str, experiment: Experiment, quiet: bool) -> dict[str, float]:
    """Times of a unit, measured once, while nothing else of the comparison runs."""
    file = path / TIMES
    if not file.is_file():
        note(f"{title}: measuring times", quiet)
        times = {**experiment.time(path), "threads": torch.get_num_threads()}
        with atomic_file(file) as temporary:
            temporary.write_text(json.dumps(times) + "\n")
    return json.loads(file.read_text())
