"""Resume checks, reporting and figures shared by both training stages."""

from __future__ import annotations

from pathlib import Path

import torch

from smalti.app.console import by_phase, note
from smalti.app.recipes.overrides import differences
from smalti.core.errors import InputError
from smalti.core.plugins import plugin_hint
from smalti.data.sources import Source
from smalti.data.sources.codes import CodesSource
from smalti.evaluation.figures import learning_curves
from smalti.recipe import Pretraining, PriorRecipe, Recipe, parse
from smalti.training.checkpoints import RunDirectory
from smalti.training.loop import TrainingConfig

DATA_DIRECTORY = "data"
MEASURED = ("data.mean", "data.scale")
"""Settings that training computes from its data unless they are given."""
MAY_CHANGE = ("training.steps", "training.log_every", "training.validate_every", "training.checkpoint_every")
CURVES = {
    "loss": "loss",
    "distortion_bits_per_dim": "distortion, bits/dim",
    "bits_per_dim": "bits/dim, no learned prior",
    "distortion_nats_per_dim": "distortion, nats/dim",
    "nats_per_dim": "nats/dim, no learned prior",
    "mse": "squared error",
    "bits_per_code": "bits per code",
    "psnr": "PSNR, dB",
    "rate_bits_per_dim": "rate, bits/dim",
    "rate_nats_per_dim": "rate, nats/dim",
    "batch_usage": "share of codes used in a batch",
}


def check_target(run: RunDirectory, recipe: Recipe | PriorRecipe | Pretraining) -> None:
    """Raise `InputError` if the directory holds another run, or files other than a run."""
    if not run.exists:
        taken = [path.name for path in run.path.iterdir()] if run.path.is_dir() else []
        foreign = [name for name in taken if not name.startswith(".") and name != DATA_DIRECTORY]
        if foreign:
            raise InputError(
                f"expected a new or empty directory, or a run to resume: {run.path} holds {foreign[0]} "
                "and no config.json; choose another --out"
            )
        return
    config = run.read_config("recipe")
    with plugin_hint(config):
        stored = parse(type(recipe), config["recipe"], str(run.config_path))
    changed = differences(stored, recipe)
    # An autoencoder does not depend on its prior, which has a separate run.
    refused = [key for key in changed if key not in MAY_CHANGE and not key.startswith("prior.")]
    refused = [key for key in refused if key not in MEASURED or changed[key][1]]
    if refused:
        key = refused[0]
        before, now = changed[key]
        raise InputError(
            f"{run.path} holds a run with {key}={before}, received {now}: "
            "choose another --out, or use the same settings to resume it"
        )


def model_of(source: Source) -> str | None:
    """Return the fingerprint of the model whose codes a source holds, or None for other sources."""
    return source.info.model if isinstance(source, CodesSource) else None


def check_model(run: RunDirectory, model: str | None) -> None:
    """Raise `InputError` if codes come from a different model than the run's training data.

    Args:
        run: a new or an existing run.
        model: result of `model_of` for the data.
    """
    before = run.read_config().get("codes_of") if run.exists else None
    if before is not None and before != model:
        received = "other data" if model is None else f"codes of {model[:12]}"
        raise InputError(
            f"expected codes of the model {before[:12]} that {run.path} was trained on, received {received}: "
            "encode the data with that model, or remove the run and train it again"
        )


def check_data(run: RunDirectory, data: str) -> None:
    """Raise `InputError` if a run would be resumed on other data."""
    before = run.read_config("data")["data"] if run.exists else data
    if before != data and Path(before).resolve() != Path(data).resolve():
        raise InputError(
            f"{run.path} holds a run on the data {before}, received {data}: "
            "choose another --out, or use the same data to resume it"
        )


def check_start(run: RunDirectory, start: str | None) -> None:
    """Raise `InputError` if a run would be resumed with other initial weights."""
    before = run.read_config().get("start") if run.exists else start
    if before != start:
        raise InputError(
            f"{run.path} holds a run that began from {before or 'nothing'}, received --from "
            f"{start or 'nothing'}: choose another --out, or use the same --from to resume it"
        )


def log_summary(config: TrainingConfig, count: int, model: torch.nn.Module, quiet: bool) -> None:
    """Print the numbers of items, parameters, steps and epochs before training."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    note(
        f"{count} items, {millions:.2f} M parameters, {config.steps} steps of {config.batch_size} "
        f"({config.steps * config.batch_size / count:.1f} epochs). Ctrl-C saves and stops.",
        quiet,
    )


def draw_learning_curves(run: RunDirectory) -> None:
    """Plot the metrics in `CURVES` to figures/learning_curves.png, one plot per training phase."""
    metrics = run.metrics()
    titles = by_phase((name for line in metrics for name in line), CURVES)
    learning_curves(metrics, titles, run.figures_path / "learning_curves.png")
