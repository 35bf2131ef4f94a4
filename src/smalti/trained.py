"""A trained model as stored in its run: weights, recipe, classes, and priors over its codes."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from smalti.core.arguments import as_device
from smalti.core.building import build_stored
from smalti.core.conditions import NO_SIZES
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.metadata import parse_json
from smalti.core.modality import Modality
from smalti.core.models import Autoencoder, LatentVariableModel
from smalti.core.plugins import listed_plugins, loaded_plugins, plugin_hint
from smalti.core.pretrained import CONFIG_FILE, WEIGHTS_FILE, check_no_run
from smalti.core.priors import DensityPrior, Prior, TrainablePrior
from smalti.core.weights import CHECKSUM, digest, short
from smalti.core.weights import fingerprint as fingerprint_of
from smalti.nn.symbols import check_counts
from smalti.priors.base import PriorConfig
from smalti.priors.labelled import LabelledPrior
from smalti.priors.uniform import UniformPrior
from smalti.priors.unigram import UnigramPrior
from smalti.recipe import Recipe, parse
from smalti.training.checkpoints import RunDirectory

PRIOR_DIRECTORY = "prior"
UNIGRAM_FILE = "unigram.json"
KEPT_KEYS = ("smalti", "plugins", "codes_of", "start", "commit")
"""Keys of a run's config.json that a saved model keeps. The location of the training data stays private."""
TRAINED_ON = "trained_on"
LEARNED = "learned"
"""Name of the prior in `PRIOR_DIRECTORY`; a prior called NAME is in `PRIOR_DIRECTORY-NAME`."""


@final
@dataclass(frozen=True)
class TrainedModel:
    """Contents of a run.

    Attributes:
        directory: the run directory.
        recipe: the training recipe.
        model: in evaluation mode.
        classes: class names, by label.
        actions: names of the actions in clips, by id.
        columns: names of the ids of further conditions, by condition.
        unigram: code frequencies, if they were counted.
        learned: the learned priors, by name.
        prior_recipes: recipes of the learned priors, by name.
        about: values of the run's config.json that a saved model keeps, see `KEPT_KEYS`.
        trained_on: fingerprint of the model whose codes each prior was trained on, by the prior's name.
    """

    directory: Path
    recipe: Recipe
    model: LatentVariableModel
    classes: tuple[str, ...]
    unigram: UnigramPrior | None
    learned: dict[str, TrainablePrior]
    prior_recipes: dict[str, PriorConfig]
    actions: tuple[str, ...] = ()
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    trained_on: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(
        cls, directory: Path, device: str | torch.device | None = None, load_priors: bool = True
    ) -> TrainedModel:
        """Load a run; `load_priors=False` skips the learned priors without checking them.

        Args:
            directory: the run.
            device: None selects a GPU if one is available.
            load_priors: whether to load the learned priors.

        Raises:
            InputError: if the run does not exist, is incomplete or broken, or was written by a newer version.
        """
        run = RunDirectory(directory)
        config = run.read_config("kind")
        if config["kind"] != "autoencoder":
            raise InputError(
                f"expected an autoencoder run, {directory} holds a {config['kind']}: "
                "pass its parent directory"
            )
        target = as_device(device)
        config = run.read_config("recipe", "classes")
        with plugin_hint(config, directory):
            recipe = parse(Recipe, config["recipe"], str(run.config_path))
        classes, actions = (_names(config.get(key, []), key, run) for key in ("classes", "actions"))
        columns = _names_by_column(config.get("columns", {}), run)
        sizes = _sizes(classes, actions, columns)
        spec = recipe.data.build().spec
        model = build_stored(lambda: recipe.model.build(spec, sizes), run.read_model(), directory)
        check_num_codes(model)
        model.to(target).eval()
        fingerprint = fingerprint_of(model)
        unigram, learned, prior_recipes, trained_on = None, {}, {}, {}
        if isinstance(model, Autoencoder):
            counted = _load_unigram(directory / UNIGRAM_FILE, model, fingerprint)
            if counted is not None:
                unigram, trained_on[UnigramPrior.name] = counted
            for path in prior_directories(directory) if load_priors else []:
                loaded = _load_prior(path, model, sizes, fingerprint)
                if loaded is not None:
                    prior, prior_recipe, trained_on[prior.name] = loaded
                    learned[prior.name] = prior.to(target).eval()
                    prior_recipes[prior.name] = prior_recipe
        trained = cls(
            directory,
            recipe,
            model,
            classes,
            unigram.to(target) if unigram else None,
            learned,
            prior_recipes,
            actions,
            columns,
            {key: config[key] for key in KEPT_KEYS if key in config},
            trained_on,
        )
        trained._warn_of_foreign_priors(fingerprint)
        return trained

    @property
    def fingerprint(self) -> str:
        """Hash of the model's weights as they are in memory; stored with codes to match them to their
        model."""
        return fingerprint_of(self.model)

    @property
    def condition_sizes(self) -> dict[str, int]:
        """Number of ids of each id condition of the training data, by name."""
        return _sizes(self.classes, self.actions, self.columns)

    @cached_property
    def modality(self) -> Modality:
        """Modality of the model's signals."""
        return self.recipe.data.build()

    @property
    def label_ids(self) -> dict[str, int]:
        """Label of each class, by its display name and by its names in sources."""
        ids = {name: label for label, name in enumerate(self.classes)}
        named = {name: ids.get(shown, -1) for name, shown in self.recipe.class_names.items()}
        return ids | named

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def autoencoder(self) -> Autoencoder:
        """The model, if it has codes.

        Raises:
            InputError: if it has no codes.
        """
        if not isinstance(self.model, Autoencoder):
            raise InputError(
                f"expected a model with codes, {self.directory} holds a {self.model.title}, which has none: "
                "it can be evaluated and compared, but not used as a tokenizer"
            )
        return self.model

    @property
    def priors(self) -> dict[str, Prior]:
        """All available priors by name, from the least to the most informed."""
        if not isinstance(self.model, Autoencoder):
            return {}
        uniform = UniformPrior(self.model.num_codes, self.model.num_codebooks, self.model.grid)
        priors: list[Prior] = [uniform.to(self.device)]
        if self.unigram is not None:
            priors.append(self.unigram)
        for learned in self.learned.values():
            priors.append(learned)
            if isinstance(learned, DensityPrior) and learned.num_labels:
                priors.append(LabelledPrior(learned))
        return {prior.name: prior for prior in priors}

    @property
    def foreign_priors(self) -> list[str]:
        """Names of the priors that were trained on codes of other weights than the model has now."""
        return self._foreign_priors(self.fingerprint)

    def _foreign_priors(self, current: str) -> list[str]:
        return [name for name in self.priors if self.trained_on.get(name, current) != current]

    def _warn_of_foreign_priors(self, current: str) -> None:
        if names := self._foreign_priors(current):
            warnings.warn(
                f"the weights of the model were changed after its priors were trained on its codes "
                f"({', '.join(names)}): train them again unless the codes are the same",
                stacklevel=3,
            )

    def save(self, directory: Path) -> None:
        """Write the model and its priors as they are in memory, in the format that `load` reads.

        Files of an earlier save that no longer belong to the model are removed. A warning names the priors
        that were trained on other weights; they are saved nevertheless, and named again when they are loaded.

        Raises:
            InputError: if the directory holds a training run.
        """
        check_no_run(directory)
        current = self.fingerprint
        self._warn_of_foreign_priors(current)
        names = {
            "classes": list(self.classes),
            **({"actions": list(self.actions)} if self.actions else {}),
            **({"columns": {name: list(ids) for name, ids in self.columns.items()}} if self.columns else {}),
        }
        recipe = self.recipe.model_dump(mode="json")
        _write(directory, {"kind": "autoencoder", **self.about, "recipe": recipe, **names}, self.model)
        (directory / UNIGRAM_FILE).unlink(missing_ok=True)
        if self.unigram is not None:
            write_unigram(
                directory / UNIGRAM_FILE, self.unigram, current, self.trained_on.get(self.unigram.name)
            )
        for path in prior_directories(directory):
            if path.is_dir() and {file.name for file in path.iterdir()} <= {CONFIG_FILE, WEIGHTS_FILE}:
                shutil.rmtree(path)
        known = list(dict.fromkeys([*listed_plugins(self.about), *loaded_plugins()]))
        plugins = {"plugins": known} if known else {}
        for name, prior in self.learned.items():
            recipe = self.prior_recipes[name].model_dump(mode="json")
            models = _models(current, self.trained_on.get(name))
            config = {"kind": "prior", **plugins, "recipe": recipe, **models}
            _write(prior_directory(directory, name), config, prior)


def _models(current: str, trained_on: str | None, key: str = "autoencoder") -> dict[str, str]:
    """Fingerprints of a prior's model and, if it differs, of the model that it was trained on."""
    return {key: current, **({} if trained_on in (None, current) else {TRAINED_ON: trained_on})}


def _write(directory: Path, config: dict[str, Any], module: torch.nn.Module) -> None:
    run = RunDirectory(directory)
    run.write_config(config)
    run.write_model(module.state_dict())


def prior_directory(run: Path, name: str = LEARNED) -> Path:
    """Directory of a run's learned prior of this name."""
    return run / (PRIOR_DIRECTORY if name == LEARNED else f"{PRIOR_DIRECTORY}-{name}")


def prior_directories(run: Path) -> list[Path]:
    """Directories of a run's learned priors, the main one first."""
    return [run / PRIOR_DIRECTORY, *sorted(run.glob(f"{PRIOR_DIRECTORY}-*"))]


def check_num_codes(model: LatentVariableModel) -> None:
    """Check the number of codes of a model before counts of them are allocated.

    Raises:
        InputError: if there are more than `smalti.nn.symbols.MOST_CODES`.
    """
    if isinstance(model, Autoencoder):
        check_counts(model.num_codes, model.num_codebooks)


def new_prior(
    recipe: PriorConfig,
    autoencoder: Autoencoder,
    conditions: Mapping[str, int] = NO_SIZES,
    name: str = LEARNED,
) -> TrainablePrior:
    """Build an untrained prior over an autoencoder's codes.

    Args:
        recipe: settings of the prior.
        autoencoder: model of the codes.
        conditions: number of ids of each id condition of the data, by name.
        name: of the prior.

    Raises:
        InputError: if the prior cannot model the codes or their layout.
    """
    # Actions belong to frames: codes that cover several frames have none.
    left_out = () if autoencoder.stride == 1 else ("action",)
    sizes = {each: size for each, size in conditions.items() if each not in left_out}
    prior = recipe.build(autoencoder.num_codes, autoencoder.num_codebooks, autoencoder.grid, sizes)
    grid = tuple(getattr(prior, "grid", ()))
    if not isinstance(prior, TrainablePrior) or not grid or grid[1:] != tuple(autoencoder.grid)[1:]:
        raise InputError(
            f"expected a TrainablePrior over grids {tuple(autoencoder.grid)}, received a "
            f"{type(prior).__name__} over {grid}: correct {type(recipe).__name__}.build"
        )
    if prior.code_layout not in (None, autoencoder.code_layout):
        codes = autoencoder.code_layout or "one grid"
        raise InputError(
            f"expected a prior for {codes}, received one for {prior.code_layout}: set network.factors to "
            "those of the autoencoder, or use another network.kind"
        )
    prior.name = name
    return prior


def _sizes(
    classes: Sequence[str], actions: Sequence[str], columns: Mapping[str, Sequence[str]]
) -> dict[str, int]:
    """Number of ids of each condition that has names, by condition."""
    named = {"label": classes, "action": actions, **columns}
    return {name: len(ids) for name, ids in named.items() if ids}


def _names(given: object, key: str, run: RunDirectory) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError(
            f"expected a list of names in {key!r} of {run.config_path}: restore the file, or train again"
        )
    return tuple(given)


def _names_by_column(given: object, run: RunDirectory) -> dict[str, tuple[str, ...]]:
    if not isinstance(given, dict):
        raise InputError(
            f"expected names by column in 'columns' of {run.config_path}: restore the file, or train again"
        )
    return {str(name): _names(ids, "columns", run) for name, ids in given.items()}


def write_unigram(path: Path, prior: UnigramPrior, fingerprint: str, trained_on: str | None = None) -> None:
    """Write the code counts, the fingerprint of the model, and that of the codes' model if it differs."""
    with atomic_file(path) as temporary:
        models = _models(fingerprint, trained_on, "model")
        stored = {**models, CHECKSUM: _digest(prior.counts), "counts": prior.counts.tolist()}
        temporary.write_text(json.dumps(stored))


def _digest(counts: Tensor) -> str:
    return short(digest({"counts": counts}))


def _load_unigram(path: Path, autoencoder: Autoencoder, fingerprint: str) -> tuple[UnigramPrior, str] | None:
    if not path.is_file():
        return None
    expected = (autoencoder.num_codebooks, autoencoder.num_codes)
    try:
        stored = parse_json(path.read_bytes())
        counts = torch.tensor(stored["counts"], dtype=torch.int64)
        if stored["model"] != fingerprint:
            return None  # counts of an earlier checkpoint; `train` counts again when it ends
        if counts.shape != expected:
            raise ValueError(f"expected counts of shape {expected}, received {tuple(counts.shape)}")
        if counts.min() < 0 or stored.get(CHECKSUM) not in (None, _digest(counts)):
            raise ValueError("the counts do not have their checksum")
    except (ValueError, KeyError, TypeError, RuntimeError, OverflowError, OSError) as error:
        raise InputError(f"{path} is broken ({error}): remove it and run `smalti train` again") from None
    prior = UnigramPrior(autoencoder.num_codes, autoencoder.num_codebooks, autoencoder.grid)
    prior.counts.copy_(counts)
    return prior, str(stored.get(TRAINED_ON, fingerprint))


def _load_prior(
    directory: Path, autoencoder: Autoencoder, conditions: Mapping[str, int], fingerprint: str
) -> tuple[TrainablePrior, PriorConfig, str] | None:
    run = RunDirectory(directory)
    if not run.model_path.is_file():
        return None
    config = run.read_config("autoencoder", "recipe")
    if config["autoencoder"] != fingerprint:
        raise InputError(
            f"the prior in {directory} was trained on codes of another state of the autoencoder "
            f"({config['autoencoder']}, now {fingerprint}): "
            f"remove {directory} and run `smalti train-prior` again"
        )
    with plugin_hint(config, directory):
        recipe = parse(PriorConfig, config["recipe"], str(run.config_path))
    name = directory.name.removeprefix(PRIOR_DIRECTORY).removeprefix("-") or LEARNED
    tensors = run.read_model()
    prior = build_stored(lambda: new_prior(recipe, autoencoder, conditions, name), tensors, directory)
    return prior, recipe, str(config.get(TRAINED_ON, fingerprint))
