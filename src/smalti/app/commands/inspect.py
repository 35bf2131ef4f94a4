"""`smalti inspect`: a text summary of a run."""

from __future__ import annotations

import json
import math
import textwrap
from pathlib import Path

from smalti.app.console import amount
from smalti.core.errors import InputError, printable
from smalti.core.models import Autoencoder
from smalti.core.signals import SignalSpec
from smalti.trained import load_trained
from smalti.training.checkpoints import RESULTS, RunDirectory

WIDTH = 100
"""Columns after which a long list goes on in the next line."""


def inspect(run: str) -> str:
    """Describe a run as text, also if its learned priors cannot be loaded.

    Raises:
        InputError: when the directory is not a run.
    """
    fault = None
    try:
        trained = load_trained(run)
    except InputError as error:
        fault, trained = error, load_trained(run, load_priors=False)
    model, config = trained.model, trained.recipe
    spec = model.signal
    shape = "x".join(str(n) for n in spec.size)
    lines = [
        f"model       {model.title}, {trained.fingerprint}, recipe {config.name}, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters",
        f"signal      {spec.channels} x {shape}, {_domain(spec)}",
        f"codes       {_codes(model) if isinstance(model, Autoencoder) else 'none: continuous latents'}",
        *_wrapped(printable(f"classes     {', '.join(trained.classes) or 'none'}")),
        f"likelihood  {model.family.kind}",
        f"priors      {', '.join(trained.priors) or 'built into the model'}",
    ]
    if fault is not None:
        lines[-1] += f"; none is loaded: {fault}"
    if trained.foreign_priors:
        lines[-1] += f" (trained on codes of other weights: {', '.join(trained.foreign_priors)})"
    directory = RunDirectory(trained.directory)
    records = directory.metrics()
    if records:
        lines.append(f"training    step {records[-1]['step']} of {config.training.steps}")
        kept = directory.best_step if config.training.keep == "best" else None
        if kept is not None and kept < records[-1]["step"]:
            lines[-1] += f", weights of step {kept} (the best on validation data)"
    results = Path(trained.directory) / RESULTS
    if results.is_file():
        lines.append(f"evaluated   {_last_evaluation(results)}")
    return "\n".join(map(printable, lines))


def _wrapped(line: str) -> list[str]:
    """Divide a line that is too long for most terminals."""
    return textwrap.wrap(
        line, WIDTH, subsequent_indent=12 * " ", break_long_words=False, break_on_hyphens=False
    )


def _codes(autoencoder: Autoencoder) -> str:
    spec = autoencoder.signal
    bits = autoencoder.num_codebooks * math.prod(autoencoder.grid) * math.log2(autoencoder.num_codes)
    grid = "x".join(str(n) for n in autoencoder.grid)
    words = f"{autoencoder.num_codebooks} x {grid} out of {autoencoder.num_codes}: {bits:.0f} bits"
    if spec.is_continuous:  # a continuous signal has no number of bits to compare with
        return words
    return f"{words}, compression ratio {spec.dims * math.log2(spec.levels) / bits:.1f}"


def _domain(spec: SignalSpec) -> str:
    return "continuous, standardised by channel" if spec.is_continuous else f"{spec.levels} levels"


def _last_evaluation(path: Path) -> str:
    try:
        report = json.loads(path.read_text())
        unit = "bits" if "bits_per_dim" in report else "nats"
        rows = report[f"{unit}_per_dim"].items()
        figures = ", ".join(f"{name} {row[f'{unit}_per_dim']:.3f}" for name, row in rows)
        seen = f", {number} trained on" if (number := report.get("num_trained_on")) else ""
        items = amount(report["num"], "items")
        return f"on {report['data']} ({report['split']}, {items}{seen}): {unit}/dim {figures}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path.name} is damaged: run `smalti evaluate` again"
