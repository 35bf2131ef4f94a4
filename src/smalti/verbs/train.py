"""`smalti train` and `smalti train-prior`: both stages, each into a run, each resumed by the same command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smalti import __version__
from smalti.data.loader import Loader, split_indices
from smalti.data.store import Store, smallest_dtype
from smalti.evaluation.evaluate import evaluate
from smalti.evaluation.figures import code_maps, learning_curves, usage_histogram
from smalti.interfaces import Autoencoder, InputError
from smalti.modalities.image import ImageModality
from smalti.models.prior import LearnedPrior, UnigramPrior
from smalti.models.vqvae import VQVAE
from smalti.recipes import PriorRecipe, Recipe, differences, get_recipe, override, parse
from smalti.tokenizer import PRIOR_DIRECTORY, UNIGRAM_FILE, Tokenizer, new_prior, write_unigram
from smalti.training.checkpoints import RunDirectory
from smalti.training.engine import Engine
from smalti.training.loop import TrainingConfig, fit
from smalti.verbs.console import counting, note, watching
from smalti.verbs.data import open_data, prepare

DATA_DIRECTORY = "data"
CODES_DIRECTORY = "codes"
WATCHED_ITEMS = 512
"""At most so many held-out items are looked at while training; `evaluate` looks at all."""
MAY_CHANGE = ("training.steps", "training.log_every", "training.validate_every", "training.checkpoint_every")
CURVES = {
    "loss": "loss",
    "distortion_bits_per_dim": "distortion, bits/dim",
    "bits_per_dim": "bits/dim, uniform prior",
    "bits_per_code": "bits a code",
    "psnr": "PSNR, dB",
    "batch_usage": "share of codes used in a batch",
}


def train(
    recipe_name: str, data: str | None, out: Path, assignments: Sequence[str] = (), quiet: bool = False
) -> RunDirectory:
    """Train an autoencoder from a recipe; an interrupted run goes on where it was.

    Args:
        recipe_name: a name in `RECIPES`.
        data: a source; None is allowed for recipes that make their own data.
        out: the run's directory.
        assignments: `key=value` texts.
        quiet: show no progress.

    Raises:
        InputError: for a user's mistake.
    """
    recipe = override(get_recipe(recipe_name), assignments, leave_out=("prior",))
    if data is None:
        if recipe_name != "letters":
            raise InputError(f"the recipe {recipe_name} needs data: add --data SOURCE (a folder, say)")
        data = "letters"
    run = RunDirectory(out)
    _check_target(run, recipe)
    _check_data(run, data)
    modality = ImageModality(recipe.data)
    # Built before any data is read, so that settings that do not fit are told at once.
    torch.manual_seed(recipe.training.seed)
    model = VQVAE(recipe.model, modality.spec)
    source = open_data(data)
    engine = Engine(recipe.training.precision, recipe.training.trackers, run.path)
    quiet = quiet or not engine.is_main
    directory = run.path / DATA_DIRECTORY
    if engine.is_main:
        prepare(directory, source, source.pick("train", "all"), modality, quiet=quiet)
    engine.wait()
    store = Store.open(directory)
    if engine.is_main:
        run.write_config(
            {
                "kind": "autoencoder",
                "smalti": __version__,
                "recipe": recipe.model_dump(mode="json"),
                "classes": [recipe.class_names.get(name, name) for name in store.classes],
                "data": data,
            }
        )
    split = _Split.of(store, recipe, engine, modality)

    def validate(candidate: Autoencoder) -> dict[str, float]:
        result = evaluate(candidate, {"uniform": _uniform(candidate)}, split.watched())
        psnr = result.reconstruction["psnr"]
        return {
            "bits_per_dim": result.density["uniform"]["bits_per_dim"],
            "distortion_bits_per_dim": result.density["uniform"]["distortion"],
            "psnr": psnr if psnr is not None else 0.0,
            "usage": result.codebook["usage"],
        }

    _say_what(recipe.training, store.count, model, quiet)
    with watching("Training", recipe.training.steps, quiet) as watch:
        fit(
            model,
            split.training.batch,
            recipe.training,
            run,
            engine,
            validate if split.held_out else None,
            watch,
        )
    if engine.is_main:
        _finish_autoencoder(run, recipe, store, split, quiet)
    engine.wait()
    return run


def train_prior(run_path: Path, assignments: Sequence[str] = (), quiet: bool = False) -> RunDirectory:
    """Train the prior of a run over the codes of its training data; an interrupted one goes on.

    Raises:
        InputError: for a user's mistake.
    """
    tokenizer = Tokenizer.from_pretrained(run_path, load_prior=False)
    recipe = override(tokenizer.recipe.prior, assignments)
    run = RunDirectory(run_path / PRIOR_DIRECTORY)
    _check_target(run, recipe)
    engine = Engine(recipe.training.precision, recipe.training.trackers, run.path)
    quiet = quiet or not engine.is_main
    directory = run_path / CODES_DIRECTORY
    if engine.is_main:
        _encode_training_data(tokenizer, run_path, directory, quiet)
    engine.wait()
    store = Store.open(directory)
    if engine.is_main:
        if run.exists and run.read_config("autoencoder")["autoencoder"] != tokenizer.fingerprint:
            raise InputError(
                f"the prior in {run.path} belongs to another state of the autoencoder: "
                f"remove {run.path} to begin anew"
            )
        run.write_config(
            {
                "kind": "prior",
                "smalti": __version__,
                "recipe": recipe.model_dump(mode="json"),
                "autoencoder": tokenizer.fingerprint,
            }
        )
    torch.manual_seed(recipe.training.seed)
    prior = new_prior(recipe, tokenizer.autoencoder, len(tokenizer.classes))
    training, held_out = split_indices(store.count, tokenizer.recipe.validation_fraction)
    size, seed = recipe.training.batch_size, recipe.training.seed
    loader = Loader(store, indices=training, batch_size=size, seed=seed, device=engine.device)
    watched = (
        Loader(store, indices=held_out, batch_size=size, device=engine.device) if len(held_out) else None
    )

    def validate(candidate: LearnedPrior) -> dict[str, float]:
        assert watched is not None
        sums = [
            (candidate.loss(batch).terms["bits_per_code"].item(), len(batch.data))
            for batch in watched.sequential()
        ]
        return {"bits_per_code": sum(v * n for v, n in sums) / sum(n for _, n in sums)}

    _say_what(recipe.training, store.count, prior, quiet)
    with watching("Training the prior", recipe.training.steps, quiet) as watch:
        fit(prior, loader.batch, recipe.training, run, engine, validate if watched else None, watch)
    if engine.is_main:
        learning_curves(run.metrics(), CURVES, run.figures_path / "learning_curves.png")
        trained = Tokenizer.from_pretrained(run_path, device=engine.device)
        samples = trained.sample(32, seed=recipe.training.seed)
        trained.modality.preview([samples]).save(run.figures_path / "samples.png")
        note(f"The prior is in {run.path}. Next: smalti sample {run_path} --num 16 --out samples", quiet)
    engine.wait()
    return run


@dataclass(frozen=True)
class _Split:
    """The training items, and those that are held out to be watched."""

    training: Loader
    held_out: Loader | None

    @classmethod
    def of(cls, store: Store, recipe: Recipe, engine: Engine, modality: ImageModality) -> _Split:
        training, held_out = split_indices(store.count, recipe.validation_fraction)
        size, seed = recipe.training.batch_size, recipe.training.seed

        def loader(indices: Any) -> Loader:
            return Loader(
                store,
                indices=indices,
                batch_size=size,
                seed=seed,
                device=engine.device,
                to_model=modality.to_model,
            )

        return cls(loader(training), loader(held_out[:WATCHED_ITEMS]) if len(held_out) else None)

    def watched(self) -> Any:
        assert self.held_out is not None
        return self.held_out.sequential()


def _check_target(run: RunDirectory, recipe: Recipe | PriorRecipe) -> None:
    """Refuse to mix two runs, or a run and other files."""
    if not run.exists:
        taken = [path.name for path in run.path.iterdir()] if run.path.is_dir() else []
        foreign = [name for name in taken if not name.startswith(".") and name != DATA_DIRECTORY]
        if foreign:
            raise InputError(
                f"expected a new or empty directory, or a run to go on with: {run.path} holds {foreign[0]} "
                "and no config.json; choose another --out"
            )
        return
    stored = parse(type(recipe), run.read_config("recipe")["recipe"], str(run.config_path))
    changed = differences(stored, recipe)
    refused = [key for key in changed if key not in MAY_CHANGE]
    if refused:
        key = refused[0]
        before, now = changed[key]
        raise InputError(
            f"{run.path} holds a run with {key}={before}, now {now} is asked for: "
            "choose another --out, or the same settings to go on with it"
        )


def _check_data(run: RunDirectory, data: str) -> None:
    """Refuse to go on with a run on other data."""
    before = run.read_config("data")["data"] if run.exists else data
    if before != data and Path(before).resolve() != Path(data).resolve():
        raise InputError(
            f"{run.path} holds a run on the data {before}, now {data} is asked for: "
            "choose another --out, or the same data to go on with it"
        )


def _uniform(autoencoder: Autoencoder) -> Any:
    from smalti.models.prior import UniformPrior

    return UniformPrior(autoencoder.num_codes, autoencoder.num_codebooks, autoencoder.grid)


def _say_what(config: TrainingConfig, count: int, model: torch.nn.Module, quiet: bool) -> None:
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    note(
        f"{count} items, {millions:.2f} M parameters, {config.steps} steps of {config.batch_size} "
        f"({config.steps * config.batch_size / count:.1f} epochs). Ctrl-C saves and stops.",
        quiet,
    )


def _finish_autoencoder(run: RunDirectory, recipe: Recipe, store: Store, split: _Split, quiet: bool) -> None:
    """Count the codes of the training split, and draw the figures that people look for."""
    tokenizer = Tokenizer.from_pretrained(run.path, load_prior=False)
    autoencoder, modality = tokenizer.autoencoder, tokenizer.modality
    unigram = UnigramPrior(autoencoder.num_codes, autoencoder.num_codebooks, autoencoder.grid)
    batches = Loader(store, batch_size=256, device=tokenizer.device, to_model=modality.to_model)
    with counting("Counting codes", quiet) as count:
        done = 0
        for batch in batches.sequential():
            unigram.count(autoencoder.encode(batch.data).cpu())
            done += len(batch.data)
            count(done, store.count)
    write_unigram(run.path / UNIGRAM_FILE, unigram, run.fingerprint())
    shown = next((split.held_out or split.training).sequential()).data[:16]
    run.figures_path.mkdir(exist_ok=True)
    reconstructed = modality.to_model(tokenizer.reconstruct(shown.cpu()))
    modality.preview([shown.cpu(), reconstructed]).save(run.figures_path / "reconstructions.png")
    code_maps(tokenizer.encode(shown[:8].cpu()), autoencoder.num_codes, run.figures_path / "codes.png")
    usage_histogram(unigram.counts, run.figures_path / "usage.png")
    learning_curves(run.metrics(), CURVES, run.figures_path / "learning_curves.png")
    used = (unigram.counts > 0).float().mean().item()
    note(
        f"{used:.1%} of the codes are used on the training data "
        f"({recipe.model.quantizer.codebook.mode} codebook).",
        quiet,
    )
    note(f"The run is in {run.path}. Next: smalti train-prior {run.path}", quiet)


def _encode_training_data(tokenizer: Tokenizer, run_path: Path, directory: Path, quiet: bool) -> None:
    """Encode a run's own data into a store beside it, unless that is there already."""
    protocol = {"model": tokenizer.fingerprint}
    if directory.is_dir() and Store.open(directory).protocol == protocol:
        return
    data = run_path / DATA_DIRECTORY
    if not data.is_dir():
        raise InputError(
            f"expected the run's training data in {data}, found none: "
            "a prior is trained where its autoencoder was"
        )
    images = Store.open(data)
    loader = Loader(images, batch_size=256, device=tokenizer.device, to_model=tokenizer.modality.to_model)

    def encoded(report: Any) -> Any:
        done = 0
        for batch in loader.sequential():
            for row in tokenizer.autoencoder.encode(batch.data).cpu().numpy():
                label = int(images.labels[done])
                yield images.names[done], row, images.classes[label] if label >= 0 else None
                done += 1
            report(done, images.count)

    with counting("Encoding", quiet) as count:
        dtype = smallest_dtype(tokenizer.autoencoder.num_codes)
        Store.write(
            directory,
            ((name, row.astype(dtype), label) for name, row, label in encoded(count)),
            tokenizer.code_shape,
            dtype,
            classes=images.classes,
            source=images.source,
            split=images.split,
            protocol=protocol,
        )
