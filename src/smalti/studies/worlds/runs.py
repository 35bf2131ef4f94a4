"""Steps and result records shared by the studies of worlds."""

from __future__ import annotations

import json
import math
from pathlib import Path

from smalti.app.data import open_data, pick_split
from smalti.app.runs import check_model, model_of
from smalti.core.errors import InputError
from smalti.core.modality import Modality
from smalti.data.sources import Source
from smalti.recipe import Recipe
from smalti.stored_priors import prior_directory
from smalti.studies.records import Record, stage
from smalti.studies.stages import train_model_once, train_prior_once
from smalti.training.checkpoints import RESULTS, RunDirectory

DRAWS = 10
"""Posterior samples per item, for models with a stochastic posterior."""


def measured_split(name: str, data: str | None, modality: Modality) -> tuple[str, Source, str]:
    """Open the data of a study and choose its held-out split.

    Args:
        name: name of the study.
        data: source given by the user.
        modality: modality of the data.

    Returns:
        The name of the source, the source, and the split to evaluate on.

    Raises:
        InputError: when no data is given, or it has no held-out split.
    """
    if data is None:
        raise InputError(f"expected data to reproduce {name}, received none: add --data SOURCE")
    source = open_data(data, modality)
    split = pick_split(source, None, "test", "validation")
    if split not in ("test", "validation"):
        raise InputError(
            f"expected data with a test split to evaluate on, found only {split!r} in {data}: collect some "
            "with smalti collect doom"
        )
    return data, source, split


def train_once(recipe: Recipe, data: str, path: Path, has_prior: bool, quiet: bool) -> None:
    """Train a model and its prior, unless they are already trained."""
    check_model(RunDirectory(path), model_of(open_data(data, recipe.data.build())))
    train_model_once(recipe, data, path, quiet)
    if has_prior:
        train_prior_once(recipe.prior, path, quiet)


def bounds(run: Path) -> list[Record]:
    """Return one record per bound of a run, in bits/dim and, if items have equal sizes, nats per item."""
    report = json.loads((run / RESULTS).read_text())
    records = []
    for name, row in report["bits_per_dim"].items():
        nats = {}
        if not modality_of(run).is_ragged:
            to_nats = modality_of(run).spec.dims * math.log(2)
            nats = {f"{part}_nats": row[part] * to_nats for part in ("rate", "distortion")}
        learned = "learned" if name.startswith("learned") else None
        metrics = {**row, **nats, **report["reconstruction"], **report["codebook"], "num": report["num"]}
        records.append({**about(run, learned), "prior": name, "metrics": metrics})
    return records


def about(run: Path, of_prior: str | None) -> Record:
    """Return the model and training fields of a record."""
    stages = [stage(run)] + ([stage(prior_directory(run, of_prior), of_prior)] if of_prior else [])
    report = json.loads((run / RESULTS).read_text())
    is_control = run.name == "control"
    config = RunDirectory(run).read_config("recipe")["recipe"]
    # The run's recipe holds the planned prior; the prior's own run holds the trained one.
    config.pop("prior", None)
    if of_prior:
        own = RunDirectory(prior_directory(run, of_prior)).read_config("recipe")["recipe"]
        config = {**config, "prior": own}
    return {
        "model": f"control: {report['title']}" if is_control else f"{report['title']}, {run.name}",
        "steps": sum(one["steps"] for one in stages),
        "seconds": sum(one["seconds"] for one in stages),
        "device": stages[0]["device"],
        "commit": stages[0]["commit"],
        "config": config,
        "stages": stages,
    }


def modality_of(run: Path) -> Modality:
    """Build the modality of a run's data."""
    recipe = RunDirectory(run).read_config("recipe")["recipe"]
    return Recipe.model_validate(recipe).data.build()
