"""Comparison on Gaussian vectors, whose distortion-rate function is known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from smalti.app.recipes.overrides import override
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.parts import QuantizerConfig
from smalti.core.weights import load_weights
from smalti.studies.quantizers.bounds import decibels, lloyd_distortion, shannon_distortion
from smalti.studies.quantizers.entries import MOST_CODE_BITS, Target
from smalti.studies.quantizers.experiment import Column, Curve, Experiment, mib
from smalti.studies.quantizers.tasks import Task
from smalti.studies.quantizers.timing import call_ms, step_ms
from smalti.studies.quantizers.vector_training import VectorRun, VectorTraining, built, stored
from smalti.studies.quantizers.vectors import (
    COUNTED,
    GAUSSIAN,
    TEST,
    TRAINING,
    GaussianConfig,
    Vectors,
    batches,
)
from smalti.studies.records import Record, last_step
from smalti.training.checkpoints import RESULTS, RunDirectory
from smalti.training.engine import Engine

REFERENCES = "references.json"
COLUMNS = (
    (
        Column("bits", "bits", ".2f"),
        Column("bits_unigram", "unigram", ".2f", has_error=True),
        Column("mse_over_variance", "MSE / variance", ".5f", has_error=True, is_score=True),
        Column("above_shannon_db", "above Shannon, dB", ".2f"),
        Column("above_kmeans_db", "above k-means, dB", ".2f"),
    ),
    (
        Column("usage", "usage", ".1%"),
        Column("perplexity", "perplexity", ".1f"),
        Column("encode_ms", "encode, ms", ".3f"),
        Column("step_ms", "step, ms", ".2f"),
        Column("mib", "MiB", ".4f"),
    ),
)
"""Of the table of results, and of that of code use and cost."""


@final
class GaussianExperiment(Experiment):
    """Quantizers between small networks, on vectors with a known distortion-rate function.

    Args:
        assignments: `key=value` settings of a `GaussianConfig`.
        out: directory of the comparison.
        steps: of the training; None for the default.
        fraction: share of the steps that a trial of the search trains.
    """

    def __init__(self, assignments: Sequence[str], out: Path, steps: int | None, fraction: float) -> None:
        source = override(GaussianConfig(), assignments)
        self._source = source if steps is None else source.changed({"training.steps": steps})
        self._out, self._fraction = out, fraction
        self._vectors = Vectors(self._source)

    def settings(self) -> dict[str, Any]:
        """Source, training and share of the search."""
        return {
            "data": GAUSSIAN,
            "recipe": self._source.model_dump(mode="json"),
            "search_fraction": self._fraction,
        }

    def target(self, bits: float) -> Target:
        """One position, and codes of the channels of the source's settings."""
        return Target(bits, (1,), self._source.channels, steps=self._source.training.steps)

    def nominal_bits(self, config: QuantizerConfig) -> float:
        """Codes a vector times log2 K."""
        with torch.device("meta"):
            quantizer = config.build()
        if math.log2(quantizer.num_codes) > MOST_CODE_BITS:
            raise InputError(
                f"expected at most 2^{MOST_CODE_BITS} codes, whose uses can be counted, received "
                f"{quantizer.num_codes:,}: use fewer bits"
            )
        return quantizer.num_codebooks * math.log2(quantizer.num_codes)

    def trial(self, title: str, config: QuantizerConfig, path: Path) -> Task:
        """The training for a share of its steps."""
        steps = max(1, round(self._source.training.steps * self._fraction))
        settings = self.unit_settings(config, 0).changed({"source.training.steps": steps})
        return VectorTraining(title, settings, path)

    def score(self, path: Path) -> float:
        """Mean squared error of validation vectors."""
        return float(json.loads((path / RESULTS).read_text())["validation_mse"])

    def unit(self, title: str, config: QuantizerConfig, seed: int, path: Path) -> Task:
        """The whole training."""
        return VectorTraining(title, self.unit_settings(config, seed), path)

    @property
    def measured_on(self) -> str:
        """Kind, dimension and correlation of the vectors."""
        source = self._source
        kind = "Gauss-Markov" if source.correlation else "Gaussian"
        correlation = f", correlation {source.correlation:g}" if source.correlation else ""
        return f"{kind} vectors of dimension {source.dimension}{correlation}"

    def unit_settings(self, config: QuantizerConfig, seed: int) -> VectorRun:
        """The source with this quantizer and seed."""
        return VectorRun(source=self._source.changed({"training.seed": seed}), quantizer=config)

    def time(self, path: Path) -> dict[str, float]:
        """Times of batches of the training's size."""
        settings = stored(path)
        model, training = built(settings).eval(), settings.source.training
        load_weights(model, RunDirectory(path).read_model(), path)
        to = Engine(training.precision).device
        model.to(to)
        x = self._vectors.draw(training.batch_size, TRAINING).to(to)
        encode = call_ms(lambda: model.encode(x))
        size = mib(model.quantizer)
        step = step_ms(model, batches(self._vectors, training, to), training)
        return {"encode_ms": encode, "step_ms": step, "mib": size}

    def measured(self, path: Path) -> Record:
        """Fields of the record, from the report of the run and the references at its rate."""
        run, settings = RunDirectory(path), stored(path)
        report, config = json.loads((path / RESULTS).read_text()), run.read_config()
        bits = self.nominal_bits(settings.quantizer)
        mse, shannon = report["mse"], shannon_distortion(self._vectors.covariance, bits)
        lloyd = self._lloyd(bits)
        training = settings.source.training
        stages = [
            {
                "prior": None,
                "data": self.measured_on,
                "items": training.batch_size * training.steps,
                "steps": last_step(run),
                "batch_size": training.batch_size,
                "seconds": round(run.seconds),
                "commit": config["commit"],
                "device": config["device"],
            }
        ]
        return {
            "dataset": GAUSSIAN,
            "split": "test",
            "measured_on": self.measured_on,
            "model": settings.quantizer.build().title,
            "prior": None,
            "bits": bits,
            **{key: stages[0][key] for key in ("steps", "seconds", "device", "commit")},
            "config": config["recipe"],
            "stages": stages,
            "metrics": {
                **{key: value for key, value in report.items() if key not in ("mse", "validation_mse")},
                "shannon": shannon,
                "above_shannon_db": decibels(mse / shannon),
                "kmeans": lloyd,
                "above_kmeans_db": None if lloyd is None else decibels(mse / lloyd),
            },
        }

    def columns(self) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
        """Squared error and its distance to the references."""
        return COLUMNS

    def curves(self, bits: list[float]) -> list[Curve]:
        """The Shannon bound, and k-means at the given rates."""
        most = max(bits) * 1.25
        line = [
            (float(rate), shannon_distortion(self._vectors.covariance, float(rate)))
            for rate in np.linspace(0, most, 60)
        ]
        found = [(rate, self._lloyd(rate)) for rate in bits]
        points = tuple((rate, mse) for rate, mse in found if mse is not None)
        curves = [Curve("Shannon bound", tuple(line))]
        return [*curves, Curve("k-means (Lloyd)", points, is_line=False)] if points else curves

    def caption(self) -> str:
        """Source, budget, and the meaning of the figures."""
        training = self._source.training
        return (
            f"Data: {self.measured_on}. Each quantizer stands between two residual networks with two hidden "
            f"layers of {self._source.hidden} units, trained for {training.steps:,} steps of "
            f"{training.batch_size} new vectors; {self._source.num_test:,} others are measured. Bits are per "
            "vector: nominal, and under the frequencies of the codes (unigram). The Shannon bound and "
            "k-means are those of the nominal bits. Times are medians of batches of "
            f"{training.batch_size}; MiB of the quantizer's weights."
        )

    def _lloyd(self, bits: float) -> float | None:
        """Squared error of k-means, computed once."""
        path = self._out / REFERENCES
        known: dict[str, float | None] = json.loads(path.read_text()) if path.is_file() else {}
        name = f"{round(2**bits)} codes"
        if name not in known:
            train, test = (
                self._vectors.draw(num, stream).squeeze(2)
                for num, stream in ((self._source.num_counted, COUNTED), (self._source.num_test, TEST))
            )
            known[name] = lloyd_distortion(train, test, bits)
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(known, indent=2) + "\n")
        return known[name]
