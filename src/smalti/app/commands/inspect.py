"""`smalti recipes` and `smalti inspect`: text summaries of recipes and runs."""

from __future__ import annotations

import inspect as python_inspect
import json
import math
from pathlib import Path

from smalti.app.commands.evaluate import RESULTS
from smalti.app.recipes import all_recipes, get_recipe
from smalti.app.runs import best_step
from smalti.core.config import Configuration
from smalti.core.models import Autoencoder
from smalti.core.signals import SignalSpec
from smalti.tokenizer import load_trained
from smalti.training.checkpoints import RunDirectory


def list_recipes() -> str:
    """List every recipe with the first line of its description."""
    recipes = all_recipes()
    width = max(len(name) for name in recipes)
    lines = []
    for name, build in recipes.items():
        first, *_ = (python_inspect.getdoc(build) or "").splitlines() or [""]
        lines.append(f"{name:<{width}}  {first}".rstrip())
    return "\n".join([*lines, "", "Show all settings of a recipe: smalti recipes NAME"])


def show_recipe(name: str) -> str:
    """Return a recipe's description and every setting that `key=value` can change.

    Raises:
        InputError: when there is no such recipe.
    """
    recipe = get_recipe(name)
    return "\n".join([python_inspect.getdoc(all_recipes()[name]) or "", "", *settings(recipe)])


def settings(config: Configuration, prefix: str = "") -> list[str]:
    """Return `key=value` for every setting of a config."""
    lines = []
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Configuration):
            lines += settings(value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(inner, Configuration):
                    lines += settings(inner, f"{prefix}{name}.{key}.")
                else:
                    lines.append(f"{prefix}{name}.{key}={inner}")
        elif isinstance(value, tuple):
            lines.append(f"{prefix}{name}={','.join(str(part) for part in value)}")
        else:
            lines.append(f"{prefix}{name}={value}")
    return lines


def inspect(run: str) -> str:
    """Describe a run as text.

    Raises:
        InputError: when the directory is not a run.
    """
    trained = load_trained(run)
    model, config = trained.model, trained.recipe
    spec = model.signal
    shape = "x".join(str(n) for n in spec.size)
    lines = [
        f"model       {model.title}, {trained.fingerprint}, recipe {config.name}, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters",
        f"signal      {spec.channels} x {shape}, {_domain(spec)}",
        f"codes       {_codes(model) if isinstance(model, Autoencoder) else 'none: continuous latents'}",
        f"classes     {', '.join(trained.classes) or 'none'}",
        f"likelihood  {model.family.kind}",
        f"priors      {', '.join(trained.priors) or 'built into the model'}",
    ]
    if trained.foreign_priors:
        lines[-1] += f" (trained on codes of other weights: {', '.join(trained.foreign_priors)})"
    directory = RunDirectory(trained.directory)
    records = directory.metrics()
    if records:
        lines.append(f"training    step {records[-1]['step']} of {config.training.steps}")
        kept = best_step(directory) if config.training.keep == "best" else None
        if kept is not None and kept < records[-1]["step"]:
            lines[-1] += f", weights of step {kept} (the best on validation data)"
    results = Path(trained.directory) / RESULTS
    if results.is_file():
        lines.append(f"evaluated   {_last_evaluation(results)}")
    return "\n".join(lines)


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
        return f"on {report['data']} ({report['split']}, {report['num']} items{seen}): {unit}/dim {figures}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path.name} is damaged: run `smalti evaluate` again"
