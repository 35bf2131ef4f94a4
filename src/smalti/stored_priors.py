"""Priors as stored in the directory of their model: code counts, and learned priors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.core.building import build_stored
from smalti.core.conditions import NO_SIZES
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.metadata import parse_json
from smalti.core.models import Autoencoder
from smalti.core.plugins import plugin_hint
from smalti.core.priors import TrainablePrior
from smalti.core.weights import CHECKSUM, digest, short
from smalti.priors.base import PriorConfig
from smalti.priors.unigram import UnigramPrior
from smalti.recipe import parse
from smalti.training.checkpoints import RunDirectory

PRIOR_DIRECTORY = "prior"
UNIGRAM_FILE = "unigram.json"
TRAINED_ON = "trained_on"
NAMES = "names"
"""Key of a prior's config.json: names of the ids of each id condition."""
MOST_SHOWN = 5
LEARNED = "learned"
"""Name of the prior in `PRIOR_DIRECTORY`; a prior called NAME is in `PRIOR_DIRECTORY-NAME`."""


def prior_directory(run: Path, name: str = LEARNED) -> Path:
    """Directory of a run's learned prior of this name."""
    return run / (PRIOR_DIRECTORY if name == LEARNED else f"{PRIOR_DIRECTORY}-{name}")


def prior_directories(run: Path) -> list[Path]:
    """Directories of a run's learned priors, the main one first."""
    return [run / PRIOR_DIRECTORY, *sorted(run.glob(f"{PRIOR_DIRECTORY}-*"))]


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


def fingerprints(current: str, trained_on: str | None, key: str = "autoencoder") -> dict[str, str]:
    """Fingerprints to store: that of a prior's model, and of the model of its training if it differs."""
    return {key: current, **({} if trained_on in (None, current) else {TRAINED_ON: trained_on})}


def write_unigram(path: Path, prior: UnigramPrior, fingerprint: str, trained_on: str | None = None) -> None:
    """Write the code counts, the fingerprint of the model, and that of the codes' model if it differs."""
    with atomic_file(path) as temporary:
        models = fingerprints(fingerprint, trained_on, "model")
        stored = {**models, CHECKSUM: _digest(prior.counts), "counts": prior.counts.tolist()}
        temporary.write_text(json.dumps(stored))


def _digest(counts: Tensor) -> str:
    return short(digest({"counts": counts}))


def read_unigram(path: Path, autoencoder: Autoencoder, fingerprint: str) -> tuple[UnigramPrior, str] | None:
    """Read code counts; None if there are none, or they are of an earlier checkpoint.

    Args:
        path: written by `write_unigram`.
        autoencoder: model of the codes.
        fingerprint: of its weights.

    Returns:
        The prior, and the fingerprint of the model whose codes were counted.

    Raises:
        InputError: if the file is broken.
    """
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


def read_prior(
    directory: Path, autoencoder: Autoencoder, names: Mapping[str, Sequence[str]], accepted: Sequence[str]
) -> tuple[TrainablePrior, PriorConfig, str] | None:
    """Read a learned prior, on the CPU; None if the directory holds none.

    Args:
        directory: of the prior.
        autoencoder: model of the codes.
        names: names of the ids of each id condition of the data, by condition.
        accepted: fingerprint of the autoencoder's weights, and those of other models with the same codes.

    Returns:
        The prior, its settings, and the fingerprint of the model whose codes it was trained on.

    Raises:
        InputError: if the prior is of another state of the autoencoder, or of other ids, or its files are
            broken.
    """
    run = RunDirectory(directory)
    if not run.model_path.is_file():
        return None
    config = run.read_config("autoencoder", "recipe")
    if config["autoencoder"] not in accepted:
        raise InputError(
            f"the prior in {directory} was trained on codes of another state of the autoencoder "
            f"({config['autoencoder']}, now {accepted[0]}): "
            f"remove {directory} and run `smalti train-prior` again"
        )
    check_names(config, names, directory, is_own=config["autoencoder"] == accepted[0])
    conditions = {condition: len(ids) for condition, ids in names.items()}
    with plugin_hint(config, directory):
        recipe = parse(PriorConfig, config["recipe"], str(run.config_path))
    name = directory.name.removeprefix(PRIOR_DIRECTORY).removeprefix("-") or LEARNED
    tensors = run.read_model()
    prior = build_stored(lambda: new_prior(recipe, autoencoder, conditions, name), tensors, directory)
    return prior, recipe, str(config.get(TRAINED_ON, accepted[0]))


def names_entry(names: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[str]]]:
    """Names of ids to store with a prior, so that it is not used with other ids of the same number."""
    return {NAMES: {condition: list(ids) for condition, ids in names.items()}} if names else {}


def check_names(
    config: Mapping[str, Any], names: Mapping[str, Sequence[str]], directory: Path, *, is_own: bool
) -> None:
    """Raise `InputError` if a prior was trained with other ids than those of the run.

    Args:
        config: of the prior.
        names: names of the ids of each id condition of the run, by condition.
        directory: of the prior.
        is_own: whether it was trained in this run; then its config may lack the names.
    """
    before = config.get(NAMES)
    if not isinstance(before, dict):
        if is_own or not names:
            return
        raise InputError(
            f"expected a prior that names its ids of {' and '.join(names)} in {directory}, since it was "
            f"trained in another run, received one without: remove {directory} and run `smalti train-prior` "
            "again"
        )
    for condition in [each for each in names if each in before]:
        own, others = list(names[condition]), before[condition]
        if own != others:
            raise InputError(
                f"expected a prior of the ids {_shown(own)} of {condition} in {directory}, received one of "
                f"{_shown(others if isinstance(others, list) else [])}: remove {directory} and run "
                "`smalti train-prior` again"
            )


def _shown(names: Sequence[object]) -> str:
    first = ", ".join(map(str, names[:MOST_SHOWN])) or "(none)"
    return first if len(names) <= MOST_SHOWN else f"{first}, ..."
