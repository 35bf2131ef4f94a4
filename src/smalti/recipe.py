"""Recipes: complete experiment configurations, from the data to the prior.

Functions of plugins that build recipes register themselves by name:

    @register_recipe("tiles")
    def tiles() -> Recipe:
        \"\"\"Tiles of 16x16, in a minute on two cores.\"\"\"
        return Recipe(name="tiles", ...)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from pydantic import Field, ValidationError

from smalti.core.config import Configuration
from smalti.core.errors import InputError, UnknownKind
from smalti.core.modality import AnyModality
from smalti.core.models import AnyModel
from smalti.core.plugins import load_plugins
from smalti.core.validation import sentence_of
from smalti.modalities.image.modality import ImageConfig
from smalti.models.masked import MaskedPredictionConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.objectives.objective import ObjectiveConfig
from smalti.priors.autoregressive import AutoregressivePriorConfig
from smalti.priors.base import PRIORS, AnyPrior, PriorConfig
from smalti.training.loop import TrainingConfig


class Pretraining(Configuration):
    """Stage before the autoencoder: its encoder is trained by masked prediction and then frozen.

    Attributes:
        task: settings of masked prediction.
        training: settings of the training loop.
    """

    task: MaskedPredictionConfig = MaskedPredictionConfig()
    training: TrainingConfig = TrainingConfig()


class Recipe(Configuration):
    """A complete experiment, saved with its run.

    Attributes:
        name: name on the command line.
        data: how signals are read.
        validation_fraction: share of the training split held out for validation.
        class_names: display names of classes, by their name in the source.
        model: the model to train: a VQ-VAE, or a baseline.
        objective: what training minimises: by default the model's own loss.
        training: training settings of the autoencoder.
        pretraining: pre-training of its encoder; None for no pre-training.
        prior: the second stage: a prior over the codes, and its training.
    """

    name: str
    data: AnyModality = ImageConfig()
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    class_names: dict[str, str] = Field(default_factory=dict)
    model: AnyModel = VQVAEConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    pretraining: Pretraining | None = None
    prior: AnyPrior = AutoregressivePriorConfig()


RecipeFunction = Callable[[], Recipe]
_REGISTERED: dict[str, RecipeFunction] = {}


def register_recipe(name: str) -> Callable[[RecipeFunction], RecipeFunction]:
    """Function decorator that registers a recipe of a plugin under its name on the command line.

    The function's docstring describes the recipe in `smalti recipes`, its first line in the list.

    Raises:
        ValueError: if another function has the name.
    """

    def register(build: RecipeFunction) -> RecipeFunction:
        other = _REGISTERED.get(name, build)
        # A function registers itself again when its module is reloaded.
        if (other.__module__, other.__qualname__) != (build.__module__, build.__qualname__):
            raise ValueError(
                f"expected a new name of a recipe, received {name!r}, which belongs to "
                f"{other.__module__}.{other.__qualname__}: choose another name"
            )
        _REGISTERED[name] = build
        return build

    return register


def registered_recipes() -> dict[str, RecipeFunction]:
    """Recipes of plugins, by name."""
    load_plugins()
    return dict(_REGISTERED)


C = TypeVar("C", bound=Configuration)


def validator(model: type[C]) -> Callable[[Any], C]:
    """Return the function that validates values as a config of this class, or as a prior of any kind."""
    if issubclass(model, PriorConfig):
        return cast("Callable[[Any], C]", PRIORS.validate)
    return model.model_validate


def parse(model: type[C], values: Any, where: str) -> C:
    """Validate stored values.

    Args:
        model: config class to create; a `PriorConfig` stands for all kinds of priors.
        values: stored values, as plain JSON values.
        where: file of the values, for messages.

    Raises:
        UnknownKind: if they name a kind of part that is not registered.
        InputError: if they do not fit the model otherwise.
    """
    try:
        return validator(model)(values)
    except ValidationError as error:
        raise refusal(error, values, f"{where} does not describe a model of this version: ") from None


def refusal(error: ValidationError, values: Any, prefix: str = "") -> InputError:
    """A validation error in one sentence.

    Args:
        error: the first of its errors is reported.
        values: what was validated.
        prefix: of the sentence.

    Returns:
        An `UnknownKind` if a kind of part that is not registered is the cause.
    """
    first = error.errors()[0]
    message = prefix + sentence_of(first, ".".join(keys_of(first["loc"], values)))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UnknownKind):
        return UnknownKind(message, cause.family, cause.kind)
    return InputError(message)


def keys_of(location: Sequence[int | str], values: Any) -> list[str]:
    """Convert a pydantic error location to config keys, dropping union member names, which are not keys."""
    keys: list[str] = []
    for part in location:
        here = values if isinstance(values, dict) else {}
        if part not in here and part == here.get("kind"):
            continue
        keys.append(str(part))
        values = here.get(part)
    return keys
