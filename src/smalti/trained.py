"""A trained model as stored in its run: weights, recipe, classes, and priors over its codes."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch

from smalti.core.arguments import as_device
from smalti.core.building import build_stored
from smalti.core.conditioners import check_given_conditions
from smalti.core.conditions import Conditions, given_conditions, with_label
from smalti.core.errors import InputError
from smalti.core.hub import MODEL_TYPES, locate
from smalti.core.modality import Modality
from smalti.core.models import Autoencoder, LatentVariableModel
from smalti.core.plugins import listed_plugins, loaded_plugins, plugin_hint
from smalti.core.pretrained import CONFIG_FILE, WEIGHTS_FILE, check_no_run
from smalti.core.priors import DensityPrior, Prior, TrainablePrior
from smalti.core.suggestions import suggestion
from smalti.core.weights import fingerprint as fingerprint_of
from smalti.core.weights import with_same_codes
from smalti.models.vqvae import VQVAE
from smalti.nn.symbols import check_counts
from smalti.priors.base import PriorConfig
from smalti.priors.labelled import LabelledPrior
from smalti.priors.uniform import UniformPrior
from smalti.priors.unigram import UnigramPrior
from smalti.recipe import Recipe, parse
from smalti.stored_priors import (
    LEARNED,
    PRIOR_DIRECTORY,
    UNIGRAM_FILE,
    fingerprints,
    names_entry,
    prior_directories,
    prior_directory,
    read_prior,
    read_unigram,
    write_unigram,
)
from smalti.training.checkpoints import RunDirectory

FILES = (CONFIG_FILE, WEIGHTS_FILE)
PATTERNS = (*FILES, UNIGRAM_FILE, *(f"{PRIOR_DIRECTORY}*/{file}" for file in FILES))
"""Files that `load_trained` downloads from a repository on the Hub."""
SAME_CODES = "same_codes"
KEPT_KEYS = ("smalti", "plugins", "codes_of", "start", SAME_CODES, "commit")
"""Keys of a run's config.json that a saved model keeps. The location of the training data stays private."""


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
        names = _id_names(classes, actions, columns)
        sizes = {name: len(ids) for name, ids in names.items()}
        spec = recipe.data.build().spec
        model = build_stored(lambda: recipe.model.build(spec, sizes), run.read_model(), directory)
        check_num_codes(model)
        model.to(target).eval()
        fingerprint = fingerprint_of(model)
        unigram, learned, prior_recipes, trained_on = None, {}, {}, {}
        if isinstance(model, Autoencoder):
            counted = read_unigram(directory / UNIGRAM_FILE, model, fingerprint)
            if counted is not None:
                unigram, trained_on[UnigramPrior.name] = counted
            accepted = (fingerprint, *with_same_codes(config.get(SAME_CODES), model))
            for path in prior_directories(directory) if load_priors else []:
                loaded = read_prior(path, model, names, accepted)
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

    @cached_property
    def same_codes(self) -> tuple[str, ...]:
        """Fingerprints of models with the same codes, whose decoder this one was trained in place of."""
        return with_same_codes(self.about.get(SAME_CODES), self.model)

    @property
    def condition_sizes(self) -> dict[str, int]:
        """Number of ids of each id condition of the training data, by name."""
        return {name: len(ids) for name, ids in self.id_names.items()}

    @property
    def id_names(self) -> dict[str, tuple[str, ...]]:
        """Names of the ids of each condition of the training data that has names."""
        return _id_names(self.classes, self.actions, self.columns)

    @cached_property
    def modality(self) -> Modality:
        """Modality of the model's signals."""
        return self.recipe.data.build()

    @property
    def model_type(self) -> str | None:
        """Key of the class in the package transformers, see `smalti.auto_model`; None for other media."""
        return MODEL_TYPES.get(getattr(self.recipe.data, "kind", ""))

    @property
    def label_ids(self) -> dict[str, int]:
        """Label of each class, by its display name and by its names in sources."""
        ids = {name: label for label, name in enumerate(self.classes)}
        named = {name: ids.get(shown, -1) for name, shown in self.recipe.class_names.items()}
        return ids | named

    def label(self, class_name: str | None) -> int:
        """Label of a class, by its display name; -1 for None.

        Raises:
            InputError: if the class does not exist.
        """
        if class_name is None:
            return -1
        if class_name not in self.classes:
            hint = suggestion(str(class_name), self.classes, "the classes are")
            raise InputError(f"expected a class of this model, received {class_name!r}: {hint}")
        return self.classes.index(class_name)

    def decoder_conditions(
        self, num: int, class_name: str | None, conditions: Conditions | None
    ) -> Conditions:
        """Conditions of items to decode.

        Args:
            num: number of items.
            class_name: class of all items.
            conditions: further ones, of each item.

        Raises:
            InputError: if the class is unknown, the decoder is not class-conditional, or it does not read a
                condition.
        """
        given = given_conditions(conditions, num)
        check_given_conditions(given, self.autoencoder)
        label = self.label(class_name)
        if class_name is not None and not self.autoencoder.num_label_classes:
            raise InputError(
                f"expected no class for a decoder that is not class-conditional, received {class_name!r}: "
                "leave it out, or train a class-conditional one (kind=wavenet, or decoder.use_labels=true)"
            )
        return with_label(given, label, num) if self.classes else given

    def prior_conditions(
        self, prior: Prior, num: int, class_name: str | None, conditions: Conditions | None
    ) -> Conditions:
        """Conditions of items to draw from a prior; arguments as for `decoder_conditions`.

        Raises:
            InputError: if the class is unknown.
        """
        label, given = self.label(class_name), given_conditions(conditions, num)
        takes_label = prior.num_labels if isinstance(prior, TrainablePrior) else class_name
        return with_label(given, label, num) if takes_label else given

    def shown_class(self, label: str | None) -> str | None:
        """The display name of a class, given the name used by a source."""
        return None if label is None else self.recipe.class_names.get(label, label)

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

    def first_codes(self, num: int) -> TrainedModel:
        """Return the model of the first codes of each position alone, at a lower rate, without priors.

        Raises:
            InputError: if its quantizer is not residual, or has fewer stages.
        """
        if not isinstance(self.model, VQVAE):
            raise InputError(
                f"expected a VQ-VAE with a residual quantizer, received {self.model.title}: use all codes"
            )
        model = self.model.first_codes(num)
        recipe = self.recipe
        if model.config is not None:
            recipe = recipe.model_copy(update={"model": model.config})
        return replace(
            self, model=model, recipe=recipe, unigram=None, learned={}, prior_recipes={}, trained_on={}
        )

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

    def learned_prior(self, name: str = LEARNED) -> TrainablePrior:
        """A learned prior by name.

        Raises:
            InputError: if there is none of this name.
        """
        if name in self.learned:
            return self.learned[name]
        if name == LEARNED or not self.learned:
            raise InputError(
                f"expected a learned prior in {self.directory / PRIOR_DIRECTORY}, found none: "
                f"run `smalti train-prior {self.directory}` first"
            )
        raise InputError(
            f"expected a learned prior of this run, received {name!r}: {suggestion(name, self.learned)}"
        )

    def chosen_prior(self, prior: object) -> Prior:
        """A prior to sample from: a learned one by name, or one that is passed.

        Raises:
            InputError: if it is neither.
        """
        chosen = self.learned_prior(prior) if isinstance(prior, str) else prior
        if not isinstance(chosen, Prior):
            raise InputError(
                f"expected a Prior or the name of one, received a {type(prior).__name__}: leave it out for "
                "the learned prior"
            )
        return chosen

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

    def rounded(self, dtype: torch.dtype) -> TrainedModel:
        """Return a copy with all float32 weights rounded to a narrower type, and kept in float32.

        Its priors count as trained on its codes, some of which differ from those of this model.
        """
        before = self.fingerprint
        model, learned = copy.deepcopy(self.model), copy.deepcopy(self.learned)
        for module in (model, *learned.values()):
            for weights in module.state_dict().values():
                if weights.dtype == torch.float32:
                    weights.copy_(weights.to(dtype))
        known = {name: one for name, one in self.trained_on.items() if one != before}
        return replace(self, model=model, learned=learned, trained_on=known)

    def save(self, directory: Path, dtype: torch.dtype | None = None) -> None:
        """Write the model and its priors as they are in memory, in the format that `load` reads.

        Files of an earlier save that no longer belong to the model are removed. A warning names the priors
        that were trained on other weights; they are saved nevertheless, and named again when they are loaded.

        Args:
            directory: receives the files.
            dtype: of float32 weights in the files, to which the model should be `rounded`; None for float32.

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
        kind = {"kind": "autoencoder", **({"model_type": self.model_type} if self.model_type else {})}
        _write(directory, {**kind, **self.about, "recipe": recipe, **names}, self.model, dtype)
        (directory / UNIGRAM_FILE).unlink(missing_ok=True)
        if self.unigram is not None:
            write_unigram(
                directory / UNIGRAM_FILE, self.unigram, current, self.trained_on.get(self.unigram.name)
            )
        for path in prior_directories(directory):
            if path.is_dir() and {file.name for file in path.iterdir()} <= set(FILES):
                shutil.rmtree(path)
        known = list(dict.fromkeys([*listed_plugins(self.about), *loaded_plugins()]))
        plugins = {"plugins": known} if known else {}
        for name, prior in self.learned.items():
            recipe = self.prior_recipes[name].model_dump(mode="json")
            models = fingerprints(current, self.trained_on.get(name))
            config = {"kind": "prior", **plugins, "recipe": recipe, **models, **names_entry(self.id_names)}
            _write(prior_directory(directory, name), config, prior, dtype)


def load_trained(
    path_or_hub_name: str | Path, device: str | torch.device | None = None, load_priors: bool = True
) -> TrainedModel:
    """Load a trained model, with or without codes, from a run or the Hub; see `smalti.load`."""
    return TrainedModel.load(locate(path_or_hub_name, PATTERNS), device, load_priors)


def _write(
    directory: Path, config: dict[str, Any], module: torch.nn.Module, dtype: torch.dtype | None
) -> None:
    run = RunDirectory(directory)
    run.write_config(config)
    tensors = module.state_dict()
    if dtype is not None:
        tensors = {
            name: each.to(dtype) if each.dtype == torch.float32 else each for name, each in tensors.items()
        }
    run.write_model(tensors)


def check_num_codes(model: LatentVariableModel) -> None:
    """Check the number of codes of a model before counts of them are allocated.

    Raises:
        InputError: if there are more than `smalti.nn.symbols.MOST_CODES`.
    """
    if isinstance(model, Autoencoder):
        check_counts(model.num_codes, model.num_codebooks)


def _id_names(
    classes: tuple[str, ...], actions: tuple[str, ...], columns: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    return {name: ids for name, ids in {"label": classes, "action": actions, **columns}.items() if ids}


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
