"""Stages of a study that are done once: a finished training or evaluation is not repeated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smalti.app.commands.evaluate import evaluate
from smalti.app.commands.train import train_recipe
from smalti.app.commands.train_prior import train_prior_recipe
from smalti.app.runs import check_data, check_start, check_target
from smalti.core.models import Autoencoder
from smalti.priors.base import PriorConfig
from smalti.recipe import Recipe
from smalti.stored_priors import LEARNED, prior_directory
from smalti.studies.records import last_step
from smalti.trained import TrainedModel
from smalti.training.checkpoints import RESULTS, RunDirectory


def train_model_once(recipe: Recipe, data: str, path: Path, quiet: bool, start: Path | None = None) -> None:
    """Train a model, or resume its training, unless it is finished.

    Args:
        recipe: the recipe.
        data: a source.
        path: directory of the run.
        quiet: hide progress.
        start: run whose weights initialize this one.

    Raises:
        InputError: if the directory holds a run with other settings, data or initial weights.
    """
    run = RunDirectory(path)
    check_target(run, recipe)
    check_data(run, data)
    check_start(run, RunDirectory(start).fingerprint() if start else None)
    if last_step(run) >= recipe.training.steps and (run.figures_path / "learning_curves.png").is_file():
        trained = TrainedModel.load(path, load_priors=False)
        # A model with codes counts them after the curves are drawn, and then draws a map of them.
        is_counted = trained.unigram is not None and (run.figures_path / "codes.png").is_file()
        if is_counted or not isinstance(trained.model, Autoencoder):
            return
    train_recipe(recipe, data, path, quiet, start)


def train_prior_once(recipe: PriorConfig, run_path: Path, quiet: bool, name: str = LEARNED) -> None:
    """Train a prior over the codes of a run, or resume its training, unless it is finished.

    Raises:
        InputError: if the run holds a prior of this name with other settings.
    """
    run = RunDirectory(prior_directory(run_path, name))
    check_target(run, recipe)
    # The picture of samples is written last, so it marks a finished prior.
    if last_step(run) >= recipe.training.steps and (run.figures_path / "samples.png").is_file():
        return
    train_prior_recipe(run_path, recipe, quiet, name)


def evaluate_once(
    run: Path, data: str, split: str, quiet: bool, draws: int, priors: Sequence[str] = (LEARNED,)
) -> dict[str, Any]:
    """Evaluate a run and its priors, unless an evaluation of the same weights and data exists.

    Args:
        run: directory of the run.
        data: a source.
        split: split of the source.
        quiet: hide progress.
        draws: posterior samples per item, for models with a stochastic posterior.
        priors: names of the learned priors; those that do not exist are left out.

    Returns:
        The report, as in evaluation.json.
    """
    directories = {name: prior_directory(run, name) for name in priors}
    weights = {name: RunDirectory(path).fingerprint() for name, path in directories.items() if path.is_dir()}
    if (run / RESULTS).is_file():
        report = json.loads((run / RESULTS).read_text())
        measured = (report["model"], report["split"], report["draws"], report["priors"])
        same_data = Path(report["data"]).resolve() == Path(data).resolve()
        if same_data and measured == (RunDirectory(run).fingerprint(), split, draws, weights):
            return report
    return evaluate(str(run), data, split, quiet=quiet, draws=draws)
