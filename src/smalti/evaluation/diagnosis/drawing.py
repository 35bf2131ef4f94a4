"""Figure of the measurements of a model's codebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from smalti.evaluation.diagnosis.measurements import Codebook, Measurements
from smalti.evaluation.figures import INK, SOFT, finish_axes, save_figure

MOST_POINTS = 2000
"""Latents drawn in a scatter plot."""
LINES = (INK, SOFT, "#7a8b99", "#c9a227", "#5b8e7d", "#8a5a83")
NO_TERMS = ("batch_usage", "loss", "gradient_norm", "learning_rate", "seconds", "step")
"""Values of a line of metrics.jsonl that are no terms of the loss; the usage has a suffix in a hierarchy."""


def draw_diagnosis(measurements: Measurements, path: Path) -> None:
    """Draw use, lengths and main directions of the codes of each quantizer, and the loss terms over steps.

    Args:
        measurements: of a model.
        path: of the PNG.
    """
    rows = len(measurements.codebooks)
    figure = Figure(figsize=(14.4, 2.9 * rows), layout="constrained")
    for row, codebook in enumerate(measurements.codebooks):
        first = 4 * row + 1
        _draw_use(figure.add_subplot(rows, 4, first), codebook)
        _draw_lengths(figure.add_subplot(rows, 4, first + 1), codebook)
        _draw_directions(figure.add_subplot(rows, 4, first + 2), codebook)
    _draw_terms(figure.add_subplot(rows, 4, 4), measurements.metrics)
    save_figure(figure, path)


def _draw_use(axes: Axes, codebook: Codebook) -> None:
    for use, colour, label in (
        (codebook.use, INK, "training"),
        (codebook.held_out, SOFT, "held out"),
    ):
        for index, counts in enumerate([] if use is None else use.counts.numpy()):
            share = np.sort(counts)[::-1] / max(1, counts.sum()) * 100
            axes.stairs(share, color=colour, label=None if index else label)
    axes.axhline(100 / codebook.num_codes, color="#7a8b99", linewidth=1, linestyle="--", label="even use")
    axes.legend(frameon=False, fontsize=7)
    title = f"{codebook.use.usage:.0%} of {codebook.num_codes:,} codes used"
    finish_axes(axes, f"{codebook.name}: {title}" if codebook.name else title, "codes, most frequent first")
    axes.set_ylabel("share of positions, %", fontsize=8)


def _draw_lengths(axes: Axes, codebook: Codebook) -> None:
    lengths = [each.norm(dim=1).numpy() for each in (codebook.latents, codebook.codes)]
    lengths = [each[np.isfinite(each)] for each in lengths]
    longest = max([each.max() for each in lengths if len(each)], default=1.0)
    bins = np.linspace(0, max(float(longest), 1e-6) * 1.05, 40).tolist()
    for values, colour, label in zip(lengths, (INK, SOFT), ("latents", "their codes"), strict=True):
        axes.hist(values, bins=bins, color=colour, alpha=0.6, label=label)
    axes.legend(frameon=False, fontsize=7)
    finish_axes(axes, "lengths of latents and of their codes", "length")
    axes.set_ylabel("positions", fontsize=8)


def _draw_directions(axes: Axes, codebook: Codebook) -> None:
    latents, codes = _main_directions(codebook.latents, codebook.codes)
    axes.scatter(*latents.T, s=3, color=INK, alpha=0.35, linewidths=0, label="latents")
    axes.scatter(*codes.T, s=12, color=SOFT, marker="x", linewidths=0.8, label="their codes")
    axes.legend(frameon=False, fontsize=7)
    finish_axes(axes, "latents and codes, first two principal axes", "first axis")
    axes.set_ylabel("second axis", fontsize=8)


def _main_directions(
    latents: Float[Tensor, "n d"], codes: Float[Tensor, "n d"]
) -> tuple[Float[np.ndarray, "m 2"], Float[np.ndarray, "k 2"]]:
    """Project latents and the distinct codes on the first two principal axes of the latents."""
    chosen = torch.linspace(0, len(latents) - 1, min(len(latents), MOST_POINTS)).round().long()
    latents, codes = latents[chosen].nan_to_num(), codes[chosen].nan_to_num().unique(dim=0)
    mean = latents.mean(0)
    axes = torch.linalg.svd(latents - mean, full_matrices=False).Vh[:2]
    if len(axes) < 2:  # a single channel or position
        axes = torch.cat([axes, torch.zeros_like(axes)])
    return ((latents - mean) @ axes.t()).numpy(), ((codes - mean) @ axes.t()).numpy()


def _draw_terms(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    lines = [line for line in metrics if line.get("split") == "train"]
    names = [
        name
        for name, value in (lines[-1] if lines else {}).items()
        if isinstance(value, float) and not name.rpartition("/")[2].startswith(NO_TERMS)
    ]
    for index, name in enumerate(names):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points, strict=True), color=LINES[index % len(LINES)], label=_label(name))
    if names:
        axes.legend(frameon=False, fontsize=7)
        axes.set_yscale("symlog", linthresh=1e-3)
    finish_axes(axes, "terms of the loss, without weights" if names else "no metrics", "step")


def _label(name: str) -> str:
    return name.replace("_per_dim", "/dim").replace("_", " ")
