"""Comparison on Gaussian vectors, whose distortion-rate function is known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.app.console import watching
from smalti.app.provenance import commit, device
from smalti.app.recipes.overrides import differences, override
from smalti.app.recipes.training import short_cosine
from smalti.core.conditions import Batch
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.models import Trainable
from smalti.core.parts import AnyQuantizer, Quantizer, QuantizerConfig
from smalti.core.results import Loss
from smalti.core.weights import load_weights
from smalti.evaluation.codebook import CodebookUse
from smalti.priors.unigram import UnigramPrior
from smalti.recipe import parse
from smalti.studies.quantizers.bounds import (
    decibels,
    gauss_markov_covariance,
    lloyd_distortion,
    shannon_distortion,
)
from smalti.studies.quantizers.entries import MOST_CODE_BITS, Target
from smalti.studies.quantizers.experiment import Column, Curve, Experiment, mib
from smalti.studies.quantizers.tasks import Task
from smalti.studies.quantizers.timing import call_ms, step_ms
from smalti.studies.records import Record, last_step
from smalti.training.checkpoints import RESULTS, RunDirectory
from smalti.training.engine import Engine
from smalti.training.loop import TrainingConfig, fit

GAUSSIAN = "gaussian"
"""Name of the source on the command line."""
REFERENCES = "references.json"
TRAINING, COUNTED, VALIDATION, TEST = range(4)
"""Streams of random vectors."""


class GaussianConfig(Configuration):
    """Settings of the source, and of the training on it.

    Attributes:
        dimension: number of components of a vector.
        correlation: of neighbouring components; 0 for independent ones.
        num_test: number of vectors that are measured.
        num_counted: number of vectors whose codes are counted, and which k-means clusters.
        training: settings of the training loop.
    """

    dimension: int = Field(default=4, ge=1, le=1024)
    correlation: float = Field(default=0.0, ge=0, lt=1)
    num_test: int = Field(default=16_384, ge=1)
    num_counted: int = Field(default=65_536, ge=1)
    training: TrainingConfig = short_cosine(steps=2000, batch_size=256, learning_rate=1e-2, weight_ema=0.0)


class VectorRun(Configuration):
    """Settings of one training, saved with its run."""

    source: GaussianConfig
    quantizer: AnyQuantizer


@final
class LinearAutoencoder(Trainable):
    """Two linear maps around a quantizer, trained for squared error.

        x -> A x -> z_q -> B z_q,  loss = mean (x - B z_q)^2 + loss of the quantizer

    Both maps begin as the identity, cut or filled with zeros to the channels of the quantizer.

    Args:
        dimension: of the vectors.
        quantizer: of latents `(B, D, 1)`.
    """

    def __init__(self, dimension: int, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.encoder = nn.Conv1d(dimension, quantizer.dim, 1)
        self.decoder = nn.Conv1d(quantizer.dim, dimension, 1)
        for layer in (self.encoder, self.decoder):
            nn.init.eye_(layer.weight.data.squeeze(2))
            layer.bias.data.zero_()  # pyright: ignore[reportOptionalMemberAccess]

    def loss(self, batch: Batch) -> Loss:
        """Squared error, plus the loss of the quantizer."""
        quantized = self.quantizer(self.encoder(batch.data))
        mse = (batch.data - self.decoder(quantized.latents)).square().mean()
        return Loss(mse + quantized.loss, {"mse": mse.detach(), **quantized.terms})

    @torch.no_grad()
    def encode(self, vectors: Float[Tensor, "b n 1"]) -> Tensor:
        """Codes `(B, G, 1)` of vectors."""
        return self.quantizer.encode(self.encoder(vectors))

    @torch.no_grad()
    def reconstruct(self, codes: Tensor) -> Float[Tensor, "b n 1"]:
        """Vectors of codes."""
        return self.decoder(self.quantizer.decode(codes))


@final
class Vectors:
    """Gaussian vectors of unit variance; batch i of a stream depends on the stream and i only.

    Args:
        source: dimension and correlation.
    """

    def __init__(self, source: GaussianConfig) -> None:
        self.covariance = gauss_markov_covariance(source.dimension, source.correlation)
        self._root = torch.from_numpy(np.linalg.cholesky(self.covariance)).float()

    def draw(self, num: int, stream: int, seed: int = 0, step: int = 0) -> Float[Tensor, "b n 1"]:
        """Draw vectors.

        Args:
            num: number of vectors.
            stream: `TRAINING`, `COUNTED`, `VALIDATION` or `TEST`.
            seed: of the run, for training vectors.
            step: of the training.
        """
        rng = np.random.default_rng((stream, seed, step))
        normal = torch.from_numpy(rng.standard_normal((num, len(self._root)), dtype=np.float32))
        return (normal @ self._root.T).unsqueeze(2)


@final
@dataclass(frozen=True)
class VectorTraining(Task):
    """Training of one quantizer on vectors, and its evaluation."""

    title: str
    settings: VectorRun
    path: Path

    def is_done(self) -> bool:
        """Return True if the report exists.

        Raises:
            InputError: if the directory holds a run with other settings.
        """
        run = RunDirectory(self.path)
        if run.exists:
            stored = parse(VectorRun, run.read_config("recipe")["recipe"], str(run.config_path))
            for key, (before, now) in differences(stored, self.settings).items():
                raise InputError(
                    f"{self.path} holds a run with {key}={before}, received {now}: choose another --out, or "
                    "use the same settings to go on"
                )
        return (self.path / RESULTS).is_file()

    def run(self, quiet: bool) -> None:
        """Train, and write the report."""
        run, training = RunDirectory(self.path), self.settings.source.training
        vectors, model = Vectors(self.settings.source), built(self.settings)
        if not run.exists:
            run.write_config(
                {
                    "kind": "vectors",
                    "recipe": self.settings.model_dump(mode="json"),
                    "commit": commit(),
                    "device": device(),
                }
            )
        engine = Engine(training.precision)
        with watching("Training", training.steps, quiet) as watch:
            fit(model, batches(vectors, training, engine.device), training, run, engine, watch=watch)
        load_weights(model, run.read_model(), self.path)
        report = evaluated(model.eval().to(engine.device), vectors, self.settings.source)
        with atomic_file(self.path / RESULTS) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")


def built(settings: VectorRun) -> LinearAutoencoder:
    """Build the untrained model."""
    torch.manual_seed(settings.source.training.seed)
    return LinearAutoencoder(settings.source.dimension, settings.quantizer.build())


def batches(vectors: Vectors, training: TrainingConfig, to: torch.device) -> Any:
    """Batches of training vectors, by step."""

    def batch(step: int, rank: int, world: int) -> Batch:
        drawn = vectors.draw(training.batch_size, TRAINING, training.seed, step)
        return Batch(drawn.chunk(world)[rank].to(to))

    return batch


@torch.no_grad()
def evaluated(model: LinearAutoencoder, vectors: Vectors, source: GaussianConfig) -> dict[str, float]:
    """Squared error, rates and code use of vectors that were not trained on."""
    quantizer, to = model.quantizer, model.encoder.weight.device
    x = vectors.draw(source.num_test, TEST).to(to)
    codes = model.encode(x)
    unigram = UnigramPrior(quantizer.num_codes, quantizer.num_codebooks, codes.shape[2:]).to(to)
    unigram.count(model.encode(vectors.draw(source.num_counted, COUNTED).to(to)))
    use = CodebookUse(quantizer.num_codebooks, quantizer.num_codes)
    use.update(codes)
    errors = (x - model.reconstruct(codes)).double().square().mean().item()
    checked = vectors.draw(source.num_test, VALIDATION).to(to)
    return {
        "mse": errors,
        "mse_over_variance": errors / x.double().var(correction=0).item(),
        "bits_unigram": -unigram.log_prob(codes).double().mean().item() / math.log(2),
        **use.compute(),
        "num": source.num_test,
        "validation_mse": (checked - model.reconstruct(model.encode(checked))).square().mean().item(),
    }


@final
class GaussianExperiment(Experiment):
    """Quantizers between linear maps, on vectors with a known distortion-rate function.

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
        """One position, and codes of the dimension of the vectors."""
        return Target(bits, (1,), self._source.dimension, steps=self._source.training.steps)

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
        return self._task(title, config, 0, path, steps)

    def score(self, path: Path) -> float:
        """Mean squared error of validation vectors."""
        return float(json.loads((path / RESULTS).read_text())["validation_mse"])

    def unit(self, title: str, config: QuantizerConfig, seed: int, path: Path) -> Task:
        """The whole training."""
        return self._task(title, config, seed, path, self._source.training.steps)

    def time(self, path: Path) -> dict[str, float]:
        """Times of batches of the training's size."""
        settings = _stored(path)
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
        run, settings = RunDirectory(path), _stored(path)
        report, config = json.loads((path / RESULTS).read_text()), run.read_config()
        bits = self.nominal_bits(settings.quantizer)
        mse, shannon = report["mse"], shannon_distortion(self._vectors.covariance, bits)
        lloyd = self._lloyd(bits)
        training = settings.source.training
        stages = [
            {
                "prior": None,
                "data": self._described(),
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
            "measured_on": self._described(),
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
        return (
            Column("bits", "bits", ".2f"),
            Column("bits_unigram", "unigram", ".2f", has_error=True),
            Column("mse_over_variance", "MSE / variance", ".5f", has_error=True, is_score=True),
            Column("above_shannon_db", "above Shannon, dB", ".2f"),
            Column("above_kmeans_db", "above k-means, dB", ".2f"),
        ), (
            Column("usage", "usage", ".1%"),
            Column("perplexity", "perplexity", ".1f"),
            Column("encode_ms", "encode, ms", ".3f"),
            Column("step_ms", "step, ms", ".2f"),
            Column("mib", "MiB", ".4f"),
        )

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
            f"Data: {self._described()}. Each quantizer stands between two linear maps, trained for "
            f"{training.steps:,} steps of {training.batch_size} new vectors; {self._source.num_test:,} "
            "others are measured. Bits are per vector: nominal, and under the frequencies of the codes "
            "(unigram). The Shannon bound and k-means are those of the nominal bits. Times are medians of "
            f"batches of {training.batch_size}; MiB of the quantizer's weights."
        )

    def _described(self) -> str:
        source = self._source
        kind = "Gauss-Markov" if source.correlation else "Gaussian"
        correlation = f", correlation {source.correlation:g}" if source.correlation else ""
        return f"{kind} vectors of dimension {source.dimension}{correlation}"

    def _task(self, title: str, config: QuantizerConfig, seed: int, path: Path, steps: int) -> Task:
        source = self._source.changed({"training.steps": steps, "training.seed": seed})
        return VectorTraining(title, VectorRun(source=source, quantizer=config), path)

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


def _stored(path: Path) -> VectorRun:
    run = RunDirectory(path)
    return parse(VectorRun, run.read_config("recipe")["recipe"], str(run.config_path))
