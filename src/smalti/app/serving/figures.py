"""Figures of the page, as HTML that holds them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Int64
from matplotlib.figure import Figure
from torch import Tensor

from smalti.app.pages.page import inline
from smalti.evaluation.figures import COLOURS, finish_axes, save_figure, usage_histogram

TITLES = {
    "bits_per_dim": "bits/dim",
    "nats_per_dim": "nats/dim",
    "psnr": "PSNR, dB",
    "mse": "squared error",
    "usage": "share of codes used",
}
"""Titles of the metrics on validation data whose curves are compared."""
WIDTH, HEIGHT = 3.8, 2.8
"""Size of a panel, inches."""


def embedded(write: Callable[[Path], None], description: str) -> str:
    """Return a picture that a function writes to a path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figure.png")
        write(path)
        return f'<img src="{inline(path)}" alt="{description}" style="max-width:100%">'


def use_figure(counts: Int64[Tensor, "g k"]) -> str:
    """Plot the frequency of each code."""
    return embedded(lambda path: usage_histogram(counts, path), "share of each code, most frequent first")


def curves_figure(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Plot the validation metrics of several runs over steps, one panel a metric; "" if there are none.

    Args:
        metrics: lines of metrics.jsonl by the name of the run.
    """
    held_out = {
        name: [line for line in lines if line.get("split") == "validation"] for name, lines in metrics.items()
    }
    present = [key for key in TITLES if any(key in line for lines in held_out.values() for line in lines)]
    if not present:
        return ""
    figure = Figure(figsize=(WIDTH * len(present), HEIGHT), layout="constrained")
    for index, key in enumerate(present):
        axes = figure.add_subplot(1, len(present), index + 1)
        for (name, lines), colour in zip(held_out.items(), _colours(len(held_out)), strict=True):
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                axes.plot(
                    *zip(*points, strict=True), "o-", color=colour, label=name.lstrip("_"), markersize=3
                )
        finish_axes(axes, f"{TITLES[key]}, validation", "step")
        axes.legend(frameon=False, fontsize=7)
    return embedded(lambda path: save_figure(figure, path), "learning curves")


def rate_figure(points: Mapping[str, tuple[float, float]], unit: str, quality: str) -> str:
    """Plot rate against distortion, one point a model.

    Args:
        points: rate and distortion, or quality, by the name of the model.
        unit: of the rate.
        quality: name of the other axis.
    """
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, (rate, distortion)), colour in zip(points.items(), _colours(len(points)), strict=True):
        axes.plot([rate], [distortion], "o", color=colour, label=name.lstrip("_"))
    finish_axes(axes, f"{quality} of this item", unit)
    axes.legend(frameon=False, fontsize=7)
    return embedded(lambda path: save_figure(figure, path), "rate against distortion")


def _colours(num: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(num)]
