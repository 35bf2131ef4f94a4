"""Training of one quantizer on Gaussian vectors, and its evaluation."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from smalti.app.console import watching
from smalti.app.provenance import commit, device
from smalti.app.recipes.overrides import differences
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.parts import AnyQuantizer
from smalti.core.weights import load_weights
from smalti.evaluation.codebook import CodebookUse
from smalti.priors.unigram import UnigramPrior
from smalti.recipe import parse
from smalti.studies.quantizers.tasks import Task
from smalti.studies.quantizers.vector_model import VectorAutoencoder
from smalti.studies.quantizers.vectors import (
    COUNTED,
    TEST,
    VALIDATION,
    GaussianConfig,
    Vectors,
    batches,
)
from smalti.training.checkpoints import RESULTS, RunDirectory
from smalti.training.engine import Engine
from smalti.training.loop import fit


class VectorRun(Configuration):
    """Settings of one training, saved with its run."""

    source: GaussianConfig
    quantizer: AnyQuantizer


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


def built(settings: VectorRun) -> VectorAutoencoder:
    """Build the untrained model."""
    torch.manual_seed(settings.source.training.seed)
    source = settings.source
    return VectorAutoencoder(source.dimension, settings.quantizer.build(), source.hidden)


def stored(path: Path) -> VectorRun:
    """Settings of the run in a directory."""
    run = RunDirectory(path)
    return parse(VectorRun, run.read_config("recipe")["recipe"], str(run.config_path))


@torch.no_grad()
def evaluated(model: VectorAutoencoder, vectors: Vectors, source: GaussianConfig) -> dict[str, float]:
    """Squared error, rates and code use of vectors that were not trained on."""
    quantizer, to = model.quantizer, model.encoder.linear.weight.device
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
