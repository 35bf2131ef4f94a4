"""`smalti train`: train an autoencoder into a run directory, or resume a stopped run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from smalti import __version__
from smalti.app.console import counting, note, watching
from smalti.app.data import (
    PreparedSource,
    open_run_data,
    prepare,
    report_skipped,
    training_split,
)
from smalti.app.finished import finish
from smalti.app.frozen import check_same_settings, same_codes, with_signals_of
from smalti.app.pretraining import check_parts, pretrain
from smalti.app.provenance import commit, described, device
from smalti.app.recipes import get_recipe
from smalti.app.recipes.overrides import override
from smalti.app.runs import (
    DATA_DIRECTORY,
    check_data,
    check_model,
    check_start,
    check_target,
    initial_weights,
    log_summary,
    measured,
    model_of,
    report_kept,
    resumed,
)
from smalti.app.sizes import check_memory, signal_bytes
from smalti.app.streamed import StreamedData
from smalti.app.training_items import WATCHED_ITEMS, TrainingItems
from smalti.core.conditions import NO_SIZES
from smalti.core.errors import InputError
from smalti.core.hub import locate
from smalti.core.modality import Modality
from smalti.core.models import Autoencoder, LatentVariableModel
from smalti.core.plugins import loaded_plugins, plugin_hint
from smalti.data.crops import CropLoader
from smalti.data.fingerprints import fingerprints, read_fingerprints, write_fingerprints
from smalti.data.loader import split_indices
from smalti.data.sources import Source
from smalti.data.store import Store
from smalti.evaluation.diagnosis.adversarial import adversarial_faults
from smalti.evaluation.evaluate import evaluate
from smalti.models.sizes import check_any_length
from smalti.objectives.objective import Objective, no_terms
from smalti.priors.uniform import UniformPrior
from smalti.recipe import Pretraining, Recipe
from smalti.trained import check_num_codes
from smalti.training.checkpoints import RunDirectory
from smalti.training.engine import Engine
from smalti.training.loop import fit


def train(
    recipe_name: str,
    data: str | None,
    out: Path,
    assignments: Sequence[str] = (),
    quiet: bool = False,
    start: Path | None = None,
    suggest: bool = True,
) -> RunDirectory:
    """Train a model from a recipe, or resume an interrupted run.

    Args:
        recipe_name: name of a recipe.
        data: a source; may be None for recipes that generate their data.
        out: the run's directory.
        assignments: `key=value` texts.
        quiet: hide progress.
        start: another run, or a model in this package, whose weights initialize this one.
        suggest: print the command that usually comes next.

    Raises:
        InputError: for a user error.
    """
    run = RunDirectory(out)
    with plugin_hint(run.read_config() if run.exists else {}, out):
        recipe = override(get_recipe(recipe_name), assignments, leave_out=("prior",))
    if data is None:
        if recipe_name != "letters":
            raise InputError(f"the recipe {recipe_name} needs data: add --data SOURCE (for example a folder)")
        data = "letters"
    return train_recipe(recipe, data, out, quiet, start, suggest=suggest)


def train_recipe(
    recipe: Recipe,
    data: str,
    out: Path,
    quiet: bool = False,
    start: Path | None = None,
    *,
    suggest: bool = False,
) -> RunDirectory:
    """Train a complete recipe object; see `train`."""
    start = None if start is None else locate(start, ())
    run = RunDirectory(out)
    recipe = resumed(run, recipe)
    if recipe.objective.freezes_codes and start is not None:
        recipe = with_signals_of(recipe, start)
    modality = recipe.data.build()
    _check_settings(run, recipe, data, modality, start)
    source = open_run_data(data, modality.for_training(), run, run.path / DATA_DIRECTORY, quiet)
    if not isinstance(source, PreparedSource):
        check_model(run, model_of(source))
    engine = Engine(recipe.training.precision, recipe.training.trackers, run.path)
    quiet = quiet or not engine.is_main
    if not run.is_begun:
        recipe = _surveyed(recipe, source, quiet)
        modality = recipe.data.build()
    if recipe.data.stream:
        return _train_streamed(recipe, source, data, run, engine, start, quiet)
    store = _prepared(run, source, modality.for_training(), engine, quiet)
    training, _ = split_indices(store.count, recipe.validation_fraction)
    recipe = measured(recipe, (store.item(index) for index in training.tolist()))
    modality = recipe.data.build()
    # Rebuilt with the numbers of ids, such as labels (speakers), that a decoder may be conditioned on.
    model = _seeded_model(recipe, modality, store.condition_sizes)
    begun_with = initial_weights(
        model, start, freezes_codes=recipe.objective.freezes_codes, quiet=quiet or run.is_begun
    )
    check_start(run, begun_with)
    if engine.is_main:
        origin = _origin(run, source, data) | _frozen(recipe, run, model, start)
        run.write_config(_description(recipe, data, origin, store, begun_with))
        _remember_items(run, store, modality, training, start, quiet)
    items = TrainingItems.of(store, recipe, engine, modality, model)
    if recipe.pretraining is not None:
        _pretrain(recipe.pretraining, model, items, modality, run, engine, quiet)
    items.give_statistics(model, modality, store, is_frozen=recipe.objective.freezes_codes)
    _fit(model, items, recipe, run, engine, quiet)
    if engine.is_main:
        finish(run, items, quiet, suggest)
    engine.wait()
    return run


def _train_streamed(
    recipe: Recipe,
    source: Source,
    data: str,
    run: RunDirectory,
    engine: Engine,
    start: Path | None,
    quiet: bool,
) -> RunDirectory:
    """Train from items that are decoded as they are needed, without a store."""
    streamed = StreamedData(source, training_split(source), recipe, WATCHED_ITEMS, run)
    recipe = measured(recipe, streamed.beginning(recipe.data.build().for_training()))
    modality = recipe.data.build()
    model = _seeded_model(recipe, modality, streamed.names.sizes)
    begun_with = initial_weights(
        model, start, freezes_codes=recipe.objective.freezes_codes, quiet=quiet or run.is_begun
    )
    check_start(run, begun_with)
    training = streamed.training(modality, model, engine.device)
    if engine.is_main:
        origin = _origin(run, source, data) | _frozen(recipe, run, model, start) | streamed.config
        run.write_config(_description(recipe, data, origin, streamed, begun_with))
    nothing = np.arange(0)
    items = TrainingItems(training, streamed.held_out(modality, model, engine.device), nothing, nothing)
    try:
        _fit(model, items, recipe, run, engine, quiet)
        if engine.is_main:
            finish(run, items, quiet, suggest=False)
    finally:
        training.close()
    # Each process reads files of its own.
    report_skipped([{"name": name, "reason": reason} for name, reason in training.skipped.items()])
    engine.wait()
    return run


def _check_settings(
    run: RunDirectory, recipe: Recipe, data: str, modality: Modality, start: Path | None
) -> None:
    """Check settings and initial weights before any data is read."""
    check_target(run, recipe)
    check_data(run, data)
    check_memory(lambda: recipe.model.build(modality.spec), recipe.training, signal_bytes)
    model = _seeded_model(recipe, modality, NO_SIZES)
    check_num_codes(model)
    if modality.is_ragged:
        check_any_length(model, modality.plural_name)
    recipe.objective.build(model)
    if recipe.objective.freezes_codes and start is None and not run.is_begun:
        raise InputError(
            f"expected the weights of another run with --freeze {recipe.objective.freeze}, received none: "
            "add --from RUN"
        )
    if recipe.pretraining is not None:
        check_parts(model)
        if recipe.objective.freezes_codes:
            raise InputError(
                f"expected a recipe without pretraining for --freeze {recipe.objective.freeze}, received one "
                "that trains the encoder first: leave out --freeze"
            )
    if start is not None:
        known = RunDirectory(start).read_config().get("classes", [])
        if recipe.objective.freezes_codes:
            check_same_settings(recipe, start)
        built = recipe.model.build(modality.spec, {"label": len(known)})
        initial_weights(built, start, freezes_codes=recipe.objective.freezes_codes)


def _seeded_model(recipe: Recipe, modality: Modality, conditions: Mapping[str, int]) -> LatentVariableModel:
    torch.manual_seed(recipe.training.seed)
    return recipe.model.build(modality.spec, conditions)


def _surveyed(recipe: Recipe, source: Source, quiet: bool) -> Recipe:
    """Return the recipe with the choices that depend on the training files, such as the range of pixels."""
    split = training_split(source)
    seen = min(recipe.data.stream_buffer, source.count(split)) if recipe.data.stream else source.count(split)
    data, notes = recipe.data.surveyed(item.content for item in source.section(split, 0, seen))
    for text in notes:
        note(text, quiet)
    return recipe.model_copy(update={"data": data})


def _prepared(run: RunDirectory, source: Source, modality: Modality, engine: Engine, quiet: bool) -> Store:
    """Open the training split, decoded into the run's store by one rank."""
    directory = run.path / DATA_DIRECTORY
    if engine.is_main:
        prepare(directory, source, training_split(source), modality, keep=run.is_begun, quiet=quiet)
    engine.wait()
    return Store.open(directory)


def _remember_items(
    run: RunDirectory,
    store: Store,
    modality: Modality,
    training: np.ndarray,
    start: Path | None,
    quiet: bool,
) -> None:
    """Save the fingerprints of the training items, and of those that the initial weights were trained on."""
    if run.is_begun and read_fingerprints(run.path) is not None:
        return
    with counting("Fingerprints", quiet) as count:
        size = None if modality.is_ragged else modality.spec.size
        own = fingerprints(store, training.tolist(), count, size)
    earlier = None if start is None else read_fingerprints(start)
    write_fingerprints(run.path, own if earlier is None else np.concatenate([own, earlier]))


def _origin(run: RunDirectory, source: Source, data: str) -> dict[str, Any]:
    """Return the description of the data, and the model of its codes; without a source, the stored ones."""
    if isinstance(source, PreparedSource):
        before = run.read_config()
        return {key: before[key] for key in ("described", "codes_of") if key in before}
    of_codes = model_of(source)
    return {
        "described": described(source, training_split(source), data),
        **({"codes_of": of_codes} if of_codes else {}),
    }


def _frozen(
    recipe: Recipe, run: RunDirectory, model: LatentVariableModel, start: Path | None
) -> dict[str, Any]:
    """Return what config.json says of frozen codes."""
    return same_codes(run, model, start) if recipe.objective.freezes_codes and start is not None else {}


def _description(
    recipe: Recipe, data: str, origin: dict[str, Any], store: Store | StreamedData, begun_with: str | None
) -> dict[str, Any]:
    """Return the content of the run's config.json."""
    return {
        "kind": "autoencoder",
        "smalti": __version__,
        **({"plugins": list(plugins)} if (plugins := loaded_plugins()) else {}),
        "recipe": recipe.model_dump(mode="json"),
        "classes": [recipe.class_names.get(name, name) for name in store.classes],
        **({"actions": list(store.action_names)} if store.action_names else {}),
        **({"columns": columns} if (columns := store.names_by_column) else {}),
        "data": data,
        **origin,
        "start": begun_with,
        "commit": commit(),
        "device": device(),
    }


def _pretrain(
    pretraining: Pretraining,
    model: LatentVariableModel,
    items: TrainingItems,
    modality: Modality,
    run: RunDirectory,
    engine: Engine,
    quiet: bool,
) -> None:
    if not isinstance(items.training, CropLoader):
        raise InputError(
            "expected sounds for pretraining, received items of equal size: use a recipe without pretraining"
        )
    pretrain(pretraining, model, items.training, modality, run, engine, quiet)


def _fit(
    model: LatentVariableModel,
    items: TrainingItems,
    recipe: Recipe,
    run: RunDirectory,
    engine: Engine,
    quiet: bool,
) -> None:
    """Train, and evaluate the validation items at intervals."""
    priors = (
        [UniformPrior(model.num_codes, model.num_codebooks, model.grid)]
        if isinstance(model, Autoencoder)
        else []
    )

    unit = f"{model.signal.domain.unit}_per_dim"
    torch.manual_seed(recipe.training.seed)  # of discriminators
    trainable = recipe.objective.build(model)
    measured_terms = trainable.measure if isinstance(trainable, Objective) else no_terms
    # With other terms, no single figure says which weights are best.
    score = None if recipe.objective.terms or not recipe.objective.likelihood else unit
    if score is None and recipe.training.keep == "best":
        note("The last weights will be kept, since several terms are minimised.", quiet)

    def validate(candidate: LatentVariableModel) -> dict[str, float]:
        result = evaluate(candidate, priors, items.watched(), draws=1)
        bound = cast("dict[str, float]", next(iter(result.density.values())))
        reconstruction = result.reconstruction
        shown = "psnr" if "psnr" in reconstruction else "mse"
        return (
            {unit: bound[unit], f"distortion_{unit}": bound["distortion"]}
            | {name: value for name, value in reconstruction.items() if name == shown and value is not None}
            | {name: value for name, value in result.codebook.items() if name == "usage"}
            | measured_terms(candidate, items.watched())
        )

    log_summary(recipe.training, items.training.count, model, quiet)
    with watching("Training", recipe.training.steps, quiet) as watch:
        fit(
            trainable,
            items.training.batch,
            recipe.training,
            run,
            engine,
            validate if items.held_out else None,
            watch,
            score,
        )
    if engine.is_main:
        report_kept(run, recipe.training, unit, quiet)
        for fault in adversarial_faults(run.metrics()):
            note(f"{fault.text[0].upper()}{fault.text[1:]}: {fault.advice}.", quiet)
