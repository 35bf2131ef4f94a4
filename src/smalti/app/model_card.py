"""The model card of an export: what the model is, how to use it, how it was trained, and its figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from smalti.core.models import Autoencoder
from smalti.trained import TrainedModel
from smalti.training.checkpoints import RESULTS, RunDirectory

MOST_LISTED = 20
"""Classes that a card names."""
MEDIA = {1: "audio", 2: "image", 3: "video"}
EXAMPLES = {"audio": "recording.wav", "image": "picture.png", "video": "clip.mp4"}


def model_card(
    trained: TrainedModel,
    formats: Sequence[str],
    pictures: Sequence[tuple[str, str]] = (),
    licence: str | None = None,
    has_free_size: bool = False,
    note: str | None = None,
) -> str:
    """Write the card, in Markdown with the front matter that the Hub reads.

    Args:
        trained: a run, or a saved model.
        formats: of "onnx", "torch", "transformers", those that are in the folder.
        pictures: description and file name of each picture.
        licence: identifier, such as "mit"; None if it is not decided.
        has_free_size: whether the files take signals of other sizes than in training.
        note: more about the data and the figures.
    """
    model = trained.model
    assert isinstance(model, Autoencoder)
    modality, spec = trained.modality, model.signal
    medium = "audio" if modality.sample_rate_hz is not None else MEDIA[spec.ndim]
    bits = model.num_codebooks * math.prod(model.grid) * math.log2(model.num_codes)
    places = " x ".join(str(side) for side in (model.num_codebooks, *model.grid))
    environment = Environment(
        loader=PackageLoader("smalti.app.pages", ""), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("card.md.j2").render(
        name=trained.recipe.name,
        licence=licence,
        medium=medium,
        plural=modality.plural_name,
        title=model.title,
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        signal=" x ".join(str(side) for side in (spec.channels, *spec.size)) + " values",
        codes=f"{places} codes out of {model.num_codes:,} ({bits:,.0f} bits)",
        classes=_listed(trained.classes),
        reads_label=bool(model.num_label_classes),
        priors=", ".join(trained.learned),
        formats=formats,
        example=EXAMPLES[medium],
        rate=modality.sample_rate_hz,
        signal_shape=_shape("B", spec.channels, *spec.size),
        codes_shape=_shape("B", model.num_codebooks, *model.grid),
        domain=(
            "Signals are standardised by channel."
            if spec.is_continuous
            else f"Signals are in [-1, 1] (in the data: {spec.levels} levels)."
        ),
        sizes="Other sizes will do if the strides divide them." if has_free_size else "",
        training=_training(trained),
        evaluation=_evaluation(trained.directory),
        pictures=pictures,
        note=note,
    )


def _listed(classes: Sequence[str]) -> str:
    """Names of classes, or their number if there are many."""
    return ", ".join(classes) if len(classes) <= MOST_LISTED else f"{len(classes)}, see config.json"


def _shape(*sides: object) -> str:
    return f"({', '.join(str(side) for side in sides)})"


def _training(trained: TrainedModel) -> list[tuple[str, str]]:
    """Return what is known about the training, by name."""
    run, recipe = RunDirectory(trained.directory), trained.recipe
    config = run.read_config("smalti")
    settings = recipe.training
    lines = [
        ("Data", _data(config)),
        ("Recipe", f"`{recipe.name}` of smalti {config['smalti']}"),
    ]
    records = run.metrics()
    if records:
        seconds = f", {run.seconds / 60:.0f} minutes on {config.get('device', 'an unknown device')}"
        lines.append(("Steps", f"{records[-1]['step']:,} of {settings.batch_size} items{seconds}"))
    else:
        lines.append(("Steps", f"{settings.steps:,} of {settings.batch_size} items"))
    if commit := config.get("commit"):
        lines.append(("Commit", str(commit)))
    return lines


def _data(config: dict[str, Any]) -> str:
    """Describe the data without the user's path."""
    described = str(config.get("described") or "not stated")
    data = config.get("data")
    return f"{_public(data)} ({described})" if isinstance(data, str) else described


def _public(data: str) -> str:
    """Return the last part of a path, or the name of a source."""
    return Path(data).name if Path(data).expanduser().exists() or data.startswith(("/", "~", ".")) else data


def _evaluation(directory: Path) -> dict[str, Any] | None:
    """Return the last evaluation of a run, for the template; None without one."""
    path = directory / RESULTS
    if not path.is_file():
        return None
    report = json.loads(path.read_text())
    unit = "bits" if "bits_per_dim" in report else "nats"
    rows = [
        [name, *(f"{row[key]:.3f}" for key in (f"{unit}_per_dim", "rate", "distortion"))]
        for name, row in report[f"{unit}_per_dim"].items()
    ]
    measures = {**report["reconstruction"], **report["codebook"]}
    return {
        "data": _public(report["data"]),
        "split": report["split"],
        "num": f"{report['num']:,}",
        "seen": report.get("num_trained_on"),
        "unit": unit,
        "bounds": rows,
        "measures": [(name, f"{value:.4f}") for name, value in measures.items() if value is not None],
        "protocol": list(report["protocol"].items()),
    }
