"""Resume checks, reporting and figures shared by both training stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from smalti.app.console import SHORT, amount, by_phase, note
from smalti.app.recipes.overrides import differences
from smalti.core.errors import InputError
from smalti.core.plugins import plugin_hint
from smalti.core.weights import ForeignWeights, coding, decoding, digest, load_weights, short
from smalti.data.sources import Source
from smalti.data.sources.codes import CodesSource
from smalti.data.store_layout import is_replaceable
from smalti.priors.base import PriorConfig
from smalti.recipe import Pretraining, Recipe, parse
from smalti.training.checkpoints import RunDirectory
from smalti.training.loop import TrainingConfig

R = TypeVar("R", Recipe, PriorConfig, Pretraining)

DATA_DIRECTORY = "data"
MAY_CHANGE = ("training.steps", "training.log_every", "training.validate_every", "training.checkpoint_every")
OVERFITTED = 0.01
"""Relative rise of the validation score above its minimum that counts as overfitting, not as noise."""
CURVES = {
    "loss": "loss",
    "distortion_bits_per_dim": "distortion, bits/dim",
    "bits_per_dim": "bits/dim, no learned prior",
    "distortion_nats_per_dim": "distortion, nats/dim",
    "nats_per_dim": "nats/dim, no learned prior",
    "mse": "squared error, standardised",
    "bits_per_code": "bits per code",
    "psnr": "PSNR, dB",
    "rate_bits_per_dim": "rate, bits/dim",
    "rate_nats_per_dim": "rate, nats/dim",
    "batch_usage": "share of codes used in a batch",
}


def check_target(run: RunDirectory, recipe: R, option: str = "--out") -> None:
    """Raise `InputError` if the directory holds another run, or files other than a run.

    Args:
        run: the directory.
        recipe: of the run to train in it.
        option: the option that chooses another directory, for the message.
    """
    if not run.exists:
        taken = [path.name for path in run.path.iterdir()] if run.path.is_dir() else []
        is_ours = is_replaceable(run.path / DATA_DIRECTORY)
        foreign = [
            name for name in taken if not name.startswith(".") and not (name == DATA_DIRECTORY and is_ours)
        ]
        if foreign:
            raise InputError(
                f"expected a new or empty directory, or a run to resume: {run.path} holds {foreign[0]} "
                f"and no config.json; choose another {option}"
            )
        return
    if not run.is_begun:
        run.read_config()  # nothing was trained: the settings may be corrected, in a directory of this tool
        return
    before_it = stored(run, type(recipe))
    changed = differences(before_it, _with_measured(recipe, before_it))
    # An autoencoder does not depend on its prior, which has a separate run.
    refused = [key for key in changed if key not in MAY_CHANGE and not key.startswith("prior.")]
    if refused:
        key = refused[0]
        before, now = changed[key]
        raise InputError(
            f"{run.path} holds a run with {key}={before}, received {now}: "
            f"choose another {option}, or use the same settings to resume it"
        )
    if run.checkpoint_step > recipe.training.steps:
        raise InputError(
            f"expected training.steps of at least {run.checkpoint_step}, which {run.path} has done, received "
            f"{recipe.training.steps}: raise it, or choose another {option}"
        )


def resumed(run: RunDirectory, recipe: Recipe) -> Recipe:
    """Return the recipe with what an earlier start of the run measured; unchanged for a new run."""
    return _with_measured(recipe, stored(run, Recipe)) if run.is_begun else recipe


def measured(recipe: Recipe, items: Iterable[np.ndarray]) -> Recipe:
    """Return the recipe with the statistics (mean and scale) of the training items.

    Raises:
        InputError: if the modality changes settings that it does not name: the run could not be resumed.
    """
    data = recipe.data.measured(items)
    names = {key.split(".")[0] for key in differences(recipe.data, data)} - {*data.measured_fields}
    if names:
        raise InputError(
            f"expected {type(data).__name__}.measured to change only its measured_fields, "
            f"{data.measured_fields}, received other values of {', '.join(sorted(names))}: name them there"
        )
    return recipe.model_copy(update={"data": data})


def stored(run: RunDirectory, kind: type[R]) -> R:
    """Return the recipe of a run, or of a prior."""
    config = run.read_config("recipe")
    with plugin_hint(config, run.path):
        return parse(kind, config["recipe"], str(run.config_path))


def _with_measured(recipe: R, earlier: R) -> R:
    if not (isinstance(recipe, Recipe) and isinstance(earlier, Recipe)):
        return recipe  # only an autoencoder measures its data
    return recipe.model_copy(update={"data": recipe.data.resumed(earlier.data)})


def model_of(source: Source) -> str | None:
    """Return the fingerprint of the model whose codes a source holds, or None for other sources."""
    return source.info.model if isinstance(source, CodesSource) else None


def check_model(run: RunDirectory, model: str | None) -> None:
    """Raise `InputError` if codes come from a different model than the run's training data.

    Args:
        run: a new or an existing run.
        model: result of `model_of` for the data.
    """
    before = run.read_config().get("codes_of") if run.is_begun else None
    if before is not None and before != model:
        received = "other data" if model is None else f"codes of {model[:12]}"
        raise InputError(
            f"expected codes of the model {before[:12]} that {run.path} was trained on, received {received}: "
            "encode the data with that model, or remove the run and train it again"
        )


def check_data(run: RunDirectory, data: str) -> None:
    """Raise `InputError` if a run would be resumed on other data."""
    before = run.read_config("data")["data"] if run.is_begun else data
    if before != data and Path(before).resolve() != Path(data).resolve():
        raise InputError(
            f"{run.path} holds a run on the data {before}, received {data}: "
            "choose another --out, or use the same data to resume it"
        )


def initial_weights(
    model: torch.nn.Module, start: Path | None, *, freezes_codes: bool = False, quiet: bool = True
) -> str | None:
    """Load the weights of a run into a model, and return their fingerprint.

    Args:
        model: gets the weights.
        start: the run, or None for nothing.
        freezes_codes: whether a decoder that the run's weights do not fit keeps those it has.
        quiet: do not say that it does.

    Raises:
        InputError: if there is no such run, or its model is another one.
    """
    if start is None:
        return None
    begun_with = RunDirectory(start)
    begun_with.read_config()
    tensors = begun_with.read_model()
    is_new_decoder = freezes_codes and _shapes(decoding(tensors)) != _shapes(decoding(model.state_dict()))
    own = decoding(model.state_dict()) if is_new_decoder else decoding(tensors)
    try:
        load_weights(model, {**coding(tensors), **own}, start)
    except ForeignWeights:
        raise InputError(
            f"expected initial weights of the same model, received those of {start} with other settings: "
            "remove --from, or use the settings in its config.json"
        ) from None
    if is_new_decoder:
        note(f"The weights of {start} do not fit the decoder: it begins with random weights.", quiet)
    return short(digest(tensors))


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def check_start(run: RunDirectory, start: str | None, option: str = "--out") -> None:
    """Raise `InputError` if a run would be resumed with other initial weights.

    Args:
        run: the run.
        start: fingerprint of the initial weights.
        option: the option that chooses another directory, for the message.
    """
    before = run.read_config().get("start") if run.is_begun else start
    if before != start:
        raise InputError(
            f"{run.path} holds a run that began from {before or 'nothing'}, received --from "
            f"{start or 'nothing'}: choose another {option}, or use the same --from to resume it"
        )


def log_summary(config: TrainingConfig, count: int, model: torch.nn.Module, quiet: bool) -> None:
    """Print the numbers of items, parameters, steps and epochs before training."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    epochs = config.steps * config.batch_size / count
    note(
        f"{amount(count, 'items')}, {millions:.2f} M parameters, {amount(config.steps, 'steps')} of "
        f"{config.batch_size} ({epochs:.1f} epochs). Ctrl-C saves and stops.",
        quiet,
    )


def report_kept(run: RunDirectory, config: TrainingConfig, score: str, quiet: bool) -> None:
    """Say which weights a finished run keeps, and whether it overfitted, if its last ones are not its best.

    Args:
        run: a run whose validation lines have `score` and `is_best`.
        config: its training settings.
        score: name of the validation score; less is better.
        quiet: print nothing.
    """
    lines = [line for line in run.metrics() if "is_best" in line]
    step = run.best_step
    if step is None or lines[-1]["step"] == step:
        return
    lowest, last = (float(line[score]) for line in lines if line["step"] in (step, lines[-1]["step"]))
    name = SHORT.get(f"validation {score}", score)
    at = f"{lowest:.4g} {name}"
    if config.keep == "best":
        text = f"The weights of step {step} are kept, the best on validation data ({at})"
    else:
        text = f"The last weights are kept; step {step} was the best on validation data ({at})"
    rose = f"; {name} then rose to {last:.4g} at step {lines[-1]['step']}"
    note(f"{text}{rose if f'{last:.4g}' != f'{lowest:.4g}' else ''}.", quiet)
    if last - lowest > OVERFITTED * abs(lowest):
        note(f"It overfits from step {step} on: train for fewer steps, or on more data.", quiet)


def draw_learning_curves(run: RunDirectory) -> None:
    """Plot the metrics in `CURVES` to figures/learning_curves.png, one plot per training phase."""
    from smalti.evaluation.figures import learning_curves  # Matplotlib is slow to import

    metrics = run.metrics()
    titles = by_phase((name for line in metrics for name in line), CURVES)
    learning_curves(metrics, titles, run.figures_path / "learning_curves.png")
