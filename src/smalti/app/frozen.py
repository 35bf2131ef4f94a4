"""Runs that keep the codes of another run and train its decoder: `smalti train --from RUN --freeze codes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smalti.app.recipes.overrides import differences
from smalti.app.runs import stored
from smalti.core.errors import InputError
from smalti.core.models import LatentVariableModel
from smalti.core.weights import code_digest, digest, short
from smalti.recipe import Recipe
from smalti.trained import SAME_CODES, TrainedModel
from smalti.training.checkpoints import RunDirectory


def with_signals_of(recipe: Recipe, start: Path) -> Recipe:
    """Return the recipe with the measured settings of another run's signals, such as mean and scale.

    Args:
        recipe: of a run whose codes are frozen.
        start: the other run.
    """
    earlier = stored(RunDirectory(start), Recipe).data
    taken = recipe.data.resumed(earlier)
    names = {*taken.measured_fields} & {*taken.signal_fields}
    data = recipe.data.model_copy(update={name: getattr(taken, name) for name in names})
    return recipe.model_copy(update={"data": data})


def check_same_settings(recipe: Recipe, start: Path) -> None:
    """Raise `InputError` if a setting on which the codes depend is not that of another run.

    Args:
        recipe: of a run whose codes are frozen.
        start: the other run.
    """
    earlier = stored(RunDirectory(start), Recipe)
    of_data = {
        key: values
        for key, values in differences(earlier.data, recipe.data).items()
        if key == "kind" or key in recipe.data.signal_fields
    }
    of_model = {
        key: values
        for key, values in differences(earlier.model, recipe.model).items()
        if key.split(".")[0] not in recipe.model.decoding_fields
    }
    changed = {f"data.{key}": values for key, values in of_data.items()}
    changed |= {f"model.{key}": values for key, values in of_model.items()}
    for key, (before, now) in changed.items():
        raise InputError(
            f"expected the settings on which the codes of {start} depend with --freeze codes, received "
            f"{key}={now} in place of {before}: leave it as it was, or leave out --freeze"
        )


def same_codes(run: RunDirectory, model: LatentVariableModel, start: Path) -> dict[str, Any]:
    """Return the entry of config.json that names the models with the codes of a run whose codes are frozen.

    It maps their fingerprints to the digest of what makes the codes: the model that the run began with,
    those that it knows, and the earlier states of the run.

    Args:
        run: the run.
        model: with the initial weights.
        start: the run of these weights.
    """
    own = code_digest(model)
    known: dict[str, str] = {}
    for each in (start, *([run.path] if run.is_begun else [])):
        before = RunDirectory(each).read_config().get(SAME_CODES)
        known |= before if isinstance(before, dict) else {}
    # Weights may be stored as bfloat16, but codes carry the fingerprint of a model in memory.
    known[TrainedModel.load(start, "cpu", load_priors=False).fingerprint] = own
    if run.is_begun and run.model_path.is_file():
        known[short(digest(run.read_model()))] = own
    return {SAME_CODES: known}
