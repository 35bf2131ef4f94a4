"""The model card of an export: what the model is, how to use it, how it was trained, and its figures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from smalti.core.errors import InputError, printable
from smalti.trained import TrainedModel
from smalti.training.checkpoints import RESULTS, RunDirectory

MOST_LISTED = 20
"""Classes that a card names."""
MEDIA = {"image": "image", "video": "video", "audio": "audio", "log_mel": "audio"}
"""Tag of the medium, by the kind of the modality."""
EXAMPLES = {"audio": "recording.wav", "image": "picture.png", "video": "clip.mp4"}


def model_card(
    trained: TrainedModel,
    formats: Sequence[str],
    pictures: Sequence[tuple[str, str]] = (),
    licence: str | None = None,
    has_free_size: bool = False,
    note: str | None = None,
    name: str | None = None,
) -> str:
    """Write the card, in Markdown with the front matter that the Hub reads.

    Args:
        trained: a run, or a saved model, as it was evaluated: its weights may be rounded in the files.
        formats: of "onnx", "torch", "transformers", those that are in the folder.
        pictures: description and file name of each picture.
        licence: identifier, such as "mit"; None if it is not decided.
        has_free_size: whether the files take signals of other sizes than in training.
        note: more about the data and the figures.
        name: of the model; None for that of its recipe.

    Raises:
        InputError: if the licence is no identifier, or the last evaluation cannot be read.
    """
    if licence is not None and not re.fullmatch(r"[A-Za-z0-9.-]+", licence):
        raise InputError(f"expected an identifier as licence, such as mit or cc-by-4.0, received {licence!r}")
    model = trained.autoencoder
    modality, spec = trained.modality, model.signal
    medium = MEDIA.get(getattr(trained.recipe.data, "kind", ""), "other")
    bits = model.num_codebooks * math.prod(model.grid) * math.log2(model.num_codes)
    places = " x ".join(str(side) for side in (model.num_codebooks, *model.grid))
    environment = Environment(
        loader=PackageLoader("smalti.app.pages", ""), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["plain"] = _plain
    return environment.get_template("card.md.j2").render(
        name=name or trained.recipe.name,
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
        is_known_to_transformers=trained.model_type is not None,
        example=EXAMPLES.get(medium),
        rate=modality.sample_rate_hz,
        signal_shape=_shape("B", spec.channels, *spec.size),
        codes_shape=_shape("B", model.num_codebooks, *model.grid),
        domain=_domain(trained),
        sizes="Any multiple of the strides is accepted as a size." if has_free_size else "",
        training=_training(trained),
        evaluation=_evaluation(trained),
        pictures=pictures,
        note=note,
    )


def _domain(trained: TrainedModel) -> str:
    """Say which values the signals of exported files have."""
    spec, data = trained.model.signal, trained.recipe.data
    kind = getattr(data, "kind", "")
    if kind == "log_mel":
        return "Signals are log-mel spectrograms, as this run's modality computes them, not waveforms."
    if getattr(data, "encoding", "linear") != "linear":
        return "Signals are companded amplitudes in [-1, 1] (mu-law), not linear ones."
    if spec.is_continuous:
        return "Signals are standardised by channel: each minus its mean, over its scale; see config.json."
    if kind == "code_grid":
        return f"Signals are codes, integers below {spec.levels}."
    return f"Signals are in [-1, 1] (in the data: {spec.levels} levels)."


def _plain(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", printable(text))


def _listed(classes: Sequence[str]) -> str:
    """Say which classes there are, or how many."""
    if not classes:
        return ""
    if len(classes) > MOST_LISTED:
        return f"It has {len(classes)} classes."
    return f"Its classes, numbered from 0: {', '.join(map(_plain, classes))}."


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
        lines.append(("Planned steps", f"{settings.steps:,} of {settings.batch_size} items"))
    if commit := config.get("commit"):
        lines.append(("Commit", str(commit)))
    return lines


def _data(config: dict[str, Any]) -> str:
    """Describe the data without its location."""
    described, data = str(config.get("described") or "not stated"), config.get("data")
    if not isinstance(data, str):
        return described
    return f"{_public(data)} ({described.replace(data, _public(data))})"


def _public(data: str) -> str:
    """Return the last part of a path, an address or a name."""
    return re.split(r"[?#]", data)[0].rstrip("/").rsplit("/", 1)[-1]


def _evaluation(trained: TrainedModel) -> dict[str, Any] | None:
    """Return the last evaluation of these weights, for the template; None without one.

    Raises:
        InputError: if it cannot be read.
    """
    path = trained.directory / RESULTS
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_text())
        if report["model"] != trained.fingerprint:
            return None
        unit = "bits" if "bits_per_dim" in report else "nats"
        rows = [
            [
                f"{name}, given {', '.join(row['given'])}" if "given" in row else name,
                *(f"{row[key]:.3f}" for key in (f"{unit}_per_dim", "rate", "distortion")),
            ]
            for name, row in report[f"{unit}_per_dim"].items()
        ]
        measures = {**report["reconstruction"], **report["codebook"]}
        return {
            "data": _public(report["data"]),
            "split": report["split"],
            "num": f"{report['num']:,}",
            "seen": report.get("num_trained_on"),
            "measured": report.get("measured"),
            "without_density": report.get("without_density"),
            "unit": unit,
            "bounds": rows,
            "measures": [(name, f"{value:.4f}") for name, value in measures.items() if value is not None],
            "protocol": list(report["protocol"].items()),
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"expected an evaluation in {path}, which is damaged: run `smalti evaluate` again"
        ) from error
