"""`smalti train-prior`: train a prior over a run's codes, in a run directory of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from smalti import __version__
from smalti.app.console import counting, note, watching
from smalti.app.provenance import commit, device
from smalti.app.recipes.overrides import override
from smalti.app.runs import (
    DATA_DIRECTORY,
    check_start,
    check_target,
    draw_learning_curves,
    initial_weights,
    log_summary,
    report_kept,
)
from smalti.app.sizes import check_memory
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.hub import locate
from smalti.core.plugins import loaded_plugins, plugin_hint, plugin_options
from smalti.core.priors import TrainablePrior
from smalti.core.signals import Levels
from smalti.core.weights import load_weights
from smalti.data.crops import CropLoader
from smalti.data.loader import Loader, split_indices
from smalti.data.store import Store
from smalti.data.store_layout import Decoded
from smalti.encoding import encode_items
from smalti.priors.base import PriorConfig
from smalti.stored_priors import LEARNED, NAMES, check_names, names_entry, new_prior, prior_directory
from smalti.tokenizer import Tokenizer
from smalti.trained import TrainedModel
from smalti.training.checkpoints import RunDirectory
from smalti.training.engine import Engine
from smalti.training.loop import fit

CODES_DIRECTORY = "codes"
BATCH = 256
"""Items encoded per batch."""
SHOWN = 32
"""Samples in the picture drawn at the end of training."""
RESERVED = ("uniform", "unigram")
"""Names of the priors built into every run."""


def train_prior(
    run_path: Path,
    assignments: Sequence[str] = (),
    quiet: bool = False,
    name: str = LEARNED,
    suggest: bool = True,
    start: Path | None = None,
) -> RunDirectory:
    """Train a prior over the codes of a run's training data, or resume an interrupted training.

    Args:
        run_path: the autoencoder's run.
        assignments: `key=value` texts.
        quiet: hide progress.
        name: name of the prior, if the run has several.
        suggest: print the command that usually comes next.
        start: another run, or a model in this package, whose prior of this name initializes this one.

    Raises:
        InputError: for a user error.
    """
    stored = TrainedModel.load(run_path, "cpu", load_priors=False).recipe.prior
    run = RunDirectory(prior_directory(run_path, name))
    with plugin_hint(run.read_config() if run.exists else {}, run.path):
        recipe = override(stored, assignments)
    return train_prior_recipe(run_path, recipe, quiet, name, suggest=suggest, start=start)


def train_prior_recipe(
    run_path: Path,
    recipe: PriorConfig,
    quiet: bool = False,
    name: str = LEARNED,
    *,
    suggest: bool = False,
    start: Path | None = None,
) -> RunDirectory:
    """Train a prior from its complete settings; see `train_prior`."""
    if not re.fullmatch(r"[\w.-]+", name) or name in RESERVED:
        raise InputError(
            f"expected a prior name of letters, digits, dots and dashes, other than {', '.join(RESERVED)}, "
            f"received {name!r}: choose another --name"
        )
    # On the CPU until the engine assigns this rank's device.
    tokenizer = Tokenizer.from_pretrained(run_path, device="cpu", load_priors=False)
    run = RunDirectory(prior_directory(run_path, name))
    check_target(run, recipe, "--name")
    autoencoder = tokenizer.autoencoder
    check_memory(
        lambda: new_prior(recipe, autoencoder), recipe.training, lambda planned: planned.item_bytes()
    )
    views = _stored_views(run, tokenizer) if run.is_begun else _num_views(tokenizer)
    sizes = tokenizer.trained.condition_sizes
    start = None if start is None else _prior_of(start, name)
    # Before all items are encoded.
    check_start(run, initial_weights(new_prior(recipe, autoencoder, sizes, name), start), "--name")
    engine = Engine(recipe.training.precision, recipe.training.trackers, run.path)
    tokenizer.autoencoder.to(engine.device)
    quiet = quiet or not engine.is_main
    directory = run_path / CODES_DIRECTORY
    if engine.is_main:
        _encode_training_data(tokenizer, run_path, directory, quiet, views)
    engine.wait()
    store = Store.open(directory)
    of_these_codes = (tokenizer.fingerprint, *tokenizer.trained.same_codes)
    if run.is_begun and run.read_config("autoencoder")["autoencoder"] not in of_these_codes:
        raise InputError(
            f"the prior in {run.path} was trained for other weights of the autoencoder: "
            f"remove {run.path} to train it again"
        )
    if run.is_begun:
        before = run.read_config()
        is_own = before["autoencoder"] == tokenizer.fingerprint
        check_names(before, tokenizer.trained.id_names, run.path, is_own=is_own)
    torch.manual_seed(recipe.training.seed)
    prior = new_prior(recipe, tokenizer.autoencoder, sizes, name)
    begun_with = initial_weights(prior, start)
    if start is not None and RunDirectory(start).read_config().get("autoencoder") not in of_these_codes:
        note(f"The prior in {start} was trained on codes of other weights.", quiet)
    if start is not None:
        before = RunDirectory(start).read_config().get(NAMES, {})
        if before and names_entry(tokenizer.trained.id_names) != {NAMES: before}:
            note(f"The prior in {start} was trained with other ids: {', '.join(before)}.", quiet)
    if store.lengths is None and prior.grid != autoencoder.grid:
        raise InputError(
            f"expected a prior over code grids {autoencoder.grid}, since all items have one size, received "
            f"one over {prior.grid}: leave length out"
        )
    score = prior.score
    if engine.is_main:
        run.write_config(
            {
                "kind": "prior",
                "smalti": __version__,
                **({"plugins": list(plugins)} if (plugins := loaded_plugins()) else {}),
                "recipe": recipe.model_dump(mode="json"),
                "autoencoder": tokenizer.fingerprint,
                **names_entry(tokenizer.trained.id_names),
                **({} if begun_with is None else {"start": begun_with}),
                **({"views": views} if views > 1 else {}),
                "commit": commit(),
                "device": device(),
            }
        )
    # The views of an item follow each other by the number of items; only the items themselves are held out.
    items = store.count // _views_in(store)
    training, held_out = split_indices(items, tokenizer.recipe.validation_fraction)
    training = np.concatenate([training + view * items for view in range(views)])
    size, seed = recipe.training.batch_size, recipe.training.seed

    def loader_of(indices: np.ndarray) -> Loader | CropLoader:
        if store.lengths is None:
            return Loader(store, indices=indices, batch_size=size, seed=seed, device=engine.device)
        length = prior.grid[0]
        return CropLoader(store, indices, size=(length,), batch_size=size, seed=seed, device=engine.device)

    loader = loader_of(training)
    watched = loader_of(held_out) if len(held_out) else None

    def validate(candidate: TrainablePrior) -> dict[str, float]:
        assert watched is not None
        torch.manual_seed(seed)  # a loss with draws has the same at each validation
        losses = [(candidate.loss(batch), len(batch.data)) for batch in watched.watch()]
        values = [({"loss": loss.total} | loss.terms)[score].item() * num for loss, num in losses]
        return {score: sum(values) / sum(num for _, num in losses)}

    log_summary(recipe.training, len(training), prior, quiet)
    with watching("Training the prior", recipe.training.steps, quiet) as watch:
        fit(prior, loader.batch, recipe.training, run, engine, validate if watched else None, watch, score)
    if engine.is_main:
        report_kept(run, recipe.training, score, quiet)
        draw_learning_curves(run)
        # Without the other priors, which may need plugins of their own.
        trained = Tokenizer.from_pretrained(run_path, engine.device, load_priors=False)
        load_weights(prior, run.read_model(), run.path)
        codes = trained.sample_codes(SHOWN, seed=recipe.training.seed, prior=prior.eval())
        drawn = trained.decode_signals(codes)
        with atomic_file(run.figures_path / "samples.png") as temporary:
            trained.modality.preview([drawn]).save(temporary)
        named = plugin_options() if name == LEARNED else f"{plugin_options()} --prior {name}"
        drawn_to = f"{Path(run_path).name}_samples"
        next_step = f" Next: smalti sample {run_path}{named} --num 16 --out {drawn_to}" if suggest else ""
        note(f"The prior is in {run.path}.{next_step}", quiet)
    engine.wait()
    return run


def _num_views(tokenizer: Tokenizer) -> int:
    """Number of views of each item whose codes the prior learns: with `data.flip`, mirror images too."""
    return 1 if tokenizer.modality.is_ragged else tokenizer.modality.num_views


def _stored_views(run: RunDirectory, tokenizer: Tokenizer) -> int:
    """Number of views that a begun prior learns."""
    views, most = run.read_config().get("views", 1), tokenizer.modality.num_views
    if type(views) is not int or not 1 <= views <= most:
        raise InputError(
            f"expected a number of views from 1 to {most} in {run.config_path}, as data.flip of this run "
            f"allows, received {views!r}: remove {run.path} to train it again"
        )
    return views


def _views_in(store: Store) -> int:
    return int(store.protocol.get("views", 1))


def _prior_of(start: Path, name: str) -> Path:
    """The directory of a run's prior of this name, or else of its prior `learned`."""
    located = locate(start, ())
    own = prior_directory(located, name)
    return own if RunDirectory(own).exists else prior_directory(located, LEARNED)


def _encode_training_data(
    tokenizer: Tokenizer, run_path: Path, directory: Path, quiet: bool, views: int = 1
) -> None:
    """Encode the first views of a run's training data into a store, unless a store has them."""
    model = tokenizer.fingerprint
    if directory.is_dir():
        known = Store.open(directory)
        if known.protocol.get("model") == model and _views_in(known) >= views:
            return
    data = run_path / DATA_DIRECTORY
    if tokenizer.recipe.data.stream:
        raise InputError(
            f"expected a run with its decoded training data to train a prior on, received {run_path}, which "
            "was trained with data.stream=true and holds none: write codes or tokens with smalti encode and "
            "smalti tokens, or train with data.stream=false"
        )
    if not data.is_dir():
        raise InputError(
            f"expected the run's training data in {data}, found none: "
            "train the prior in the directory where the autoencoder was trained"
        )
    signals = Store.open(data)
    is_per_frame = tokenizer.autoencoder.stride == 1
    kept = [name for name, each in signals.columns.items() if is_per_frame or not each.spec.is_per_frame]
    generator = torch.Generator().manual_seed(tokenizer.recipe.training.seed)
    dtype = Levels(tokenizer.autoencoder.num_codes).dtype

    def encoded(report: Callable[[int, int], None]) -> Iterator[Decoded]:
        each = (
            encode_items(
                tokenizer.autoencoder,
                tokenizer.modality,
                signals,
                view=view,
                labels=tokenizer.trained.label_ids,
                batch_size=BATCH,
                generator=generator,
                progress=lambda done, total, view=view: report(view * total + done, views * total),
            )
            for view in range(views)
        )
        for item in chain.from_iterable(each):
            row = item.codes.numpy().astype(dtype)
            # Values per frame belong to single frames: codes that span several frames have none.
            actions = item.actions if row.shape[1] == item.length else None
            columns = {name: item.columns[name] for name in kept if name in item.columns}
            yield Decoded(item.name, row, item.label, actions, columns)

    with counting("Encoding", quiet) as count:
        Store.write(
            directory,
            encoded(count),
            tokenizer.stored_code_shape,
            dtype,
            classes=signals.classes,
            actions=signals.action_names if is_per_frame else None,
            column_names={name: signals.columns[name].spec.names for name in kept},
            source=signals.source,
            split=signals.split,
            protocol={"model": model, **({"views": views} if views > 1 else {})},
        )
