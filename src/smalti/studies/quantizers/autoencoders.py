"""Comparison on data: one autoencoder and one learned prior for each quantizer and seed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from smalti.app.console import note
from smalti.app.data import open_data, open_loader, pick_split, prepare, training_split
from smalti.app.provenance import described
from smalti.app.recipes import get_recipe, override
from smalti.app.runs import DATA_DIRECTORY, check_data, check_target
from smalti.core.errors import InputError
from smalti.core.models import Autoencoder
from smalti.core.parts import Quantizer, QuantizerConfig
from smalti.data.loader import split_indices
from smalti.data.store import Store
from smalti.encoders.pooling import item_statistics
from smalti.models.sizes import check_any_length
from smalti.recipe import Recipe
from smalti.stored_priors import LEARNED, new_prior, prior_directory
from smalti.studies.quantizers.entries import Target
from smalti.studies.quantizers.experiment import Column, Curve, Experiment, mib
from smalti.studies.quantizers.tasks import Task
from smalti.studies.quantizers.timing import call_ms, step_ms
from smalti.studies.records import Record, last_step, stage
from smalti.studies.stages import evaluate_once, train_model_once, train_prior_once
from smalti.trained import TrainedModel, check_num_codes
from smalti.training.checkpoints import RESULTS, RunDirectory

HELD_OUT = 0.05
"""Share of the training split that is held out for validation, where the recipe holds out none."""
PICTURE = "reconstructions_evaluation.png"


@final
@dataclass(frozen=True)
class Training(Task):
    """Training of an autoencoder; of a unit, also of its prior, and the evaluation."""

    title: str
    recipe: Recipe
    data: str
    store: Path
    path: Path
    split: str | None

    def is_done(self) -> bool:
        """Return True if the last file exists.

        Raises:
            InputError: if the directory holds a run with other settings or data.
        """
        run = RunDirectory(self.path)
        check_target(run, self.recipe)
        check_data(run, self.data)
        if self.split is not None:
            return (self.path / RESULTS).is_file()
        is_counted = (run.figures_path / "codes.png").is_file()
        return is_counted and last_step(run) >= self.recipe.training.steps

    def run(self, quiet: bool) -> None:
        """Train, and evaluate if there is a split to evaluate on."""
        link = self.path / DATA_DIRECTORY
        if not link.is_dir():
            # All runs read the same decoded items.
            self.path.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(self.store, self.path), target_is_directory=True)
        train_model_once(self.recipe, self.data, self.path, quiet)
        if self.split is not None:
            train_prior_once(self.recipe.prior, self.path, quiet)
            evaluate_once(self.path, self.data, self.split, quiet, draws=1)


@final
class AutoencoderExperiment(Experiment):
    """Autoencoders of one recipe that differ in their quantizers.

    Args:
        recipe_name: name of a recipe with a quantizer.
        data: a source with a training and a test split.
        assignments: `key=value` settings of the recipe.
        out: directory of the comparison.
        steps: of the autoencoder; None for those of the recipe.
        prior_steps: of the prior; None for those of the recipe.
        fraction: share of the steps that a trial of the search trains.
        quiet: hide progress.

    Raises:
        InputError: for a user error.
    """

    def __init__(
        self,
        recipe_name: str,
        data: str,
        assignments: Sequence[str],
        out: Path,
        steps: int | None,
        prior_steps: int | None,
        fraction: float,
        quiet: bool,
    ) -> None:
        recipe = override(get_recipe(recipe_name), assignments, leave_out=("prior",))
        if "quantizer" not in type(recipe.model).model_fields:
            raise InputError(
                f"expected a recipe whose model has a quantizer, received {recipe_name}, a "
                f"{getattr(recipe.model, 'kind', 'model')}: use for example --recipe image"
            )
        changes: dict[str, Any] = {"validation_fraction": recipe.validation_fraction or HELD_OUT}
        changes |= {} if steps is None else {"training.steps": steps}
        changes |= {} if prior_steps is None else {"prior.training.steps": prior_steps}
        recipe = recipe.changed(changes)
        self._data, self._out, self._fraction, self._quiet = data, out, fraction, quiet
        self._source = open_data(data, recipe.data.build())
        self._split = pick_split(self._source, None, "test", "validation")
        if self._split not in ("test", "validation"):
            raise InputError(
                f"expected data with a test split to compare on, found only {self._split!r} in {data}: put "
                "items to train on into a folder `train`, and others into a folder `test`"
            )
        names = training_split(self._source)
        chosen, notes = recipe.data.surveyed(item.content for item in self._source.items(names))
        for text in notes:
            note(text, quiet)
        self._recipe = recipe.model_copy(update={"data": chosen})
        self._base: Any = getattr(self._recipe.model, "quantizer", None)

    @cached_property
    def _store(self) -> Path:
        """Decoded training data that all runs share.

        Raises:
            InputError: if the data has changed since the comparison began.
        """
        modality, source = self._recipe.data.build(), self._source
        directory = self._out / DATA_DIRECTORY
        if directory.is_dir() and (stored := Store.open(directory).source) != source.description:
            raise InputError(
                f"{self._out} holds a comparison on {stored}, received {source.description}: choose another "
                "--out, or restore the data to go on"
            )
        prepare(directory, source, training_split(source), modality, quiet=self._quiet)
        return directory

    def settings(self) -> dict[str, Any]:
        """Recipe, data and share of the search."""
        return {
            "data": self._data,
            "recipe": self._recipe.model_dump(mode="json"),
            "search_fraction": self._fraction,
        }

    def target(self, bits: float) -> Target:
        """Bits at each position, and the dimension of the recipe's codes."""
        model, base = self._base_model, self._base
        quantizers = quantizers_of(model)
        if len(quantizers) > 1:
            # A hierarchy quantizes several latents for each position of its coarsest grid.
            grid = tuple(model.grid)
            positions = math.prod(grid) * model.num_codebooks // quantizers[0].num_codebooks
        else:
            # Codes need not have the grid of the latents.
            grid = tuple(model.encoder.grid(model.signal.size))
            positions = math.prod(grid)
        code_dim = getattr(base, "code_dim", None) or getattr(base, "dim", None) or 64
        num, steps = int(getattr(base, "num_codebooks", 1)), self._recipe.training.steps
        return Target(bits / positions, grid, int(code_dim), num, steps)

    def nominal_bits(self, config: QuantizerConfig) -> float:
        """Codes an item times log2 K; also checks that the prior can model such codes."""
        model = self._model(config)
        check_num_codes(model)
        modality = self._recipe.data.build()
        if modality.is_ragged:
            check_any_length(model, modality.plural_name)
        with torch.device("meta"):
            new_prior(self._recipe.prior, model)
        return nominal_bits(model)

    def trial(self, title: str, config: QuantizerConfig, path: Path) -> Task:
        """The autoencoder alone, for a share of its steps."""
        steps = max(1, round(self._recipe.training.steps * self._fraction))
        recipe = self.unit_settings(config, 0).changed({"training.steps": steps})
        return Training(title, recipe, self._data, self._store, path, None)

    def score(self, path: Path) -> float:
        """Lowest validation score: bits/dim (or nats/dim) under the uniform prior."""
        run = RunDirectory(path)
        name = f"{self._recipe.data.build().spec.domain.unit}_per_dim"
        return min((line[name] for line in run.metrics() if "is_best" in line), default=math.inf)

    def unit(self, title: str, config: QuantizerConfig, seed: int, path: Path) -> Task:
        """Autoencoder, prior and evaluation."""
        return Training(title, self.unit_settings(config, seed), self._data, self._store, path, self._split)

    @property
    def measured_on(self) -> str:
        """The source and its splits."""
        return described(self._source, self._split, self._data)

    def unit_settings(self, config: QuantizerConfig, seed: int) -> Recipe:
        """The recipe with this quantizer and seed."""
        return self._recipe.changed(
            {"model.quantizer": config, "training.seed": seed, "prior.training.seed": seed}
        )

    def time(self, path: Path) -> dict[str, float]:
        """Times of batches of the training's size."""
        trained = TrainedModel.load(path, load_priors=False)
        modality, recipe = trained.modality, trained.recipe
        store = Store.open(path / DATA_DIRECTORY)
        indices, _ = split_indices(store.count, recipe.validation_fraction)
        loader = open_loader(
            store,
            modality,
            trained.model,
            recipe.training.batch_size,
            trained.device,
            recipe.training.seed,
            indices,
        )
        statistics = item_statistics(trained.model, modality, store, trained.label_ids)
        if statistics is not None:
            loader.voices = statistics[indices]
        batch = loader.batch(0, 0, 1)
        model = trained.autoencoder.eval()
        size = sum(mib(quantizer) for quantizer in quantizers_of(model))
        encode = call_ms(lambda: model.encode(batch.data, batch.conditions))
        return {
            "encode_ms": encode,
            "step_ms": step_ms(model, loader.batch, recipe.training),
            "mib": size,
        }

    def measured(self, path: Path) -> Record:
        """Fields of the record, from the evaluation of the run."""
        report = json.loads((path / RESULTS).read_text())
        trained = TrainedModel.load(path, load_priors=False)
        model = trained.autoencoder
        stages = [stage(path), stage(prior_directory(path), LEARNED)]
        config = RunDirectory(path).read_config("recipe")["recipe"]
        prior = RunDirectory(prior_directory(path)).read_config("recipe")["recipe"]
        return {
            "dataset": Path(self._data).name,
            "split": report["split"],
            "measured_on": self.measured_on,
            "model": quantizers_of(model)[0].title,
            "prior": LEARNED,
            "bits": nominal_bits(model),
            "steps": sum(one["steps"] for one in stages),
            "seconds": sum(one["seconds"] for one in stages),
            "device": stages[0]["device"],
            "commit": stages[0]["commit"],
            "config": {**config, "prior": prior},
            "stages": stages,
            "metrics": metrics_of(report, model.signal.dims),
        }

    def columns(self) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
        """Likelihood first, or squared error where the recipe has none."""
        unit = self._recipe.data.build().spec.domain.unit
        return columns_of(unit)

    def curves(self, bits: list[float]) -> list[Curve]:
        """None: the distortion-rate function of the data is not known."""
        return []

    def caption(self) -> str:
        """Data, budget, and the meaning of the figures."""
        recipe, modality = self._recipe, self._recipe.data.build()
        unit = modality.spec.domain.unit
        items = len(split_indices(Store.open(self._store).count, recipe.validation_fraction)[0])
        item = f"item of length {modality.spec.size[0]:,}" if modality.is_ragged else "item"
        return (
            f"Data: {self.measured_on}, {self._split} split. Each model: "
            f"recipe {recipe.name}, {recipe.training.steps:,} steps of {recipe.training.batch_size} on "
            f"{items:,} items; prior: {recipe.prior.training.steps:,} steps of "
            f"{recipe.prior.training.batch_size}. Bits are per {item}: nominal (uniform prior), under the "
            f"learned prior, and under the frequencies of the training codes (unigram). {unit}/dim = rate "
            "under the learned prior + distortion. Times are medians of batches of "
            f"{recipe.training.batch_size}; MiB of the quantizer's weights."
        )

    def pictures(self, path: Path) -> Path | None:
        """Test items above their reconstructions."""
        picture = path / "figures" / PICTURE
        return picture if picture.is_file() else None

    @cached_property
    def _base_model(self) -> Autoencoder:
        return self._model(self._base)

    def _model(self, config: QuantizerConfig) -> Autoencoder:
        """The untrained model with this quantizer, without memory for its weights."""
        recipe = self._recipe.changed({"model.quantizer": config})
        with torch.device("meta"):
            model = recipe.model.build(recipe.data.build().spec)
        assert isinstance(model, Autoencoder)
        return model


def quantizers_of(model: Autoencoder) -> list[Quantizer]:
    """The quantizer of a model, or those of the levels of a hierarchy."""
    found: list[Quantizer] = []
    for part in model.children():
        parts = part.children() if isinstance(part, nn.ModuleList) else (part,)
        found += [each for each in parts if isinstance(each, Quantizer)]
    return found


def nominal_bits(model: Autoencoder) -> float:
    """Bits of the codes of an item under the uniform prior."""
    return model.num_codebooks * math.prod(model.grid) * math.log2(model.num_codes)


def metrics_of(report: dict[str, Any], dims: int) -> dict[str, float | None]:
    """Metrics of a record from an evaluation report.

    Args:
        report: as in evaluation.json.
        dims: number of dimensions of an item.
    """
    unit = "bits" if "bits_per_dim" in report else "nats"
    rows = report[f"{unit}_per_dim"]
    to_bits = dims if unit == "bits" else dims / math.log(2)
    # A prior without a density has no rate.
    learned, reconstruction = rows.get(LEARNED, {}), report["reconstruction"]
    rate = learned.get("rate")
    return {
        "mse_over_variance": reconstruction.get("mse_over_variance"),
        "psnr": reconstruction.get("psnr"),
        f"{unit}_per_dim": learned.get(f"{unit}_per_dim"),
        "rate": rate,
        "distortion": rows["unigram"]["distortion"],
        "bits_unigram": rows["unigram"]["rate"] * to_bits,
        "bits_learned": None if rate is None else rate * to_bits,
        "usage": report["codebook"]["usage"],
        "perplexity": report["codebook"]["perplexity"],
        "num": report["num"],
    }


def columns_of(unit: str) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    """Columns of the table of results, and of that of code use and cost.

    Args:
        unit: of the likelihood, "bits" or "nats".
    """
    return (
        Column("bits", "bits", ",.1f"),
        Column("bits_learned", "learned prior", ",.1f", has_error=True),
        Column("mse_over_variance", "MSE / variance", ".4f", has_error=True, is_score=True),
        Column("psnr", "PSNR", ".2f", has_error=True),
        Column("distortion", "distortion", ".3f"),
        Column(f"{unit}_per_dim", f"{unit}/dim", ".3f", has_error=True, is_score=True),
    ), (
        Column("bits_unigram", "unigram", ",.1f", has_error=True),
        Column("usage", "usage", ".1%"),
        Column("perplexity", "perplexity", ".1f"),
        Column("encode_ms", "encode, ms", ".2f"),
        Column("step_ms", "step, ms", ".2f"),
        Column("mib", "MiB", ".3f"),
    )
