"""PNG figures: learning curves, codebook usage, code maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, cat

from smalti.core.files import atomic_file

INK, SOFT = "#1f3a5f", "#c8553d"
COLOURS = (INK, SOFT, "#7a8b99", "#c9a227", "#5b8e7d")
"""Colours of several curves of one figure."""
PANELS = 3
"""Panels side by side in learning curves; with more, the text is too small on a page."""


def learning_curves(metrics: Sequence[dict[str, Any]], names: dict[str, str], path: Path) -> None:
    """Plot metrics over steps, `PANELS` panels side by side, with curves for training and validation.

    Args:
        metrics: the lines of metrics.jsonl.
        names: title of each metric to draw; a metric that occurs in no line is skipped.
        path: of the PNG.
    """
    present = [name for name in names if any(name in line for line in metrics)]
    columns, rows = min(PANELS, max(1, len(present))), max(1, -(-len(present) // PANELS))
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows), layout="constrained")
    for index, name in enumerate(present):
        axes = figure.add_subplot(rows, columns, index + 1)
        for split, colour in (("train", INK), ("validation", SOFT)):
            lines = [line for line in metrics if line.get("split") == split and name in line]
            if lines:
                style = "-" if split == "train" else "o-"
                axes.plot(
                    [line["step"] for line in lines],
                    [line[name] for line in lines],
                    style,
                    color=colour,
                    label=split,
                    markersize=3,
                )
        finish_axes(axes, names[name], "step")
        axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def usage_histogram(counts: Int64[Tensor, "g k"], path: Path) -> None:
    """Plot the frequency of each code, most frequent first, one curve per codebook."""
    figure = Figure(figsize=(4.4, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for row in counts.numpy():
        share = np.sort(row)[::-1] / max(1, row.sum())
        axes.stairs(share * 100, fill=True, color=INK, alpha=0.5 / len(counts) + 0.2)
    axes.axhline(100 / counts.shape[1], color=SOFT, linewidth=1, linestyle="--", label="even use")
    axes.legend(frameon=False, fontsize=8)
    finish_axes(
        axes, f"{int((counts > 0).sum())} of {counts.numel()} codes used", "codes, most frequent first"
    )
    axes.set_ylabel("share of positions, %", fontsize=8)
    save_figure(figure, path)


def code_maps(
    codes: Int64[Tensor, "b g *grid"],
    num_codes: int,
    path: Path,
    originals: UInt8[Tensor, "b c height width"] | None = None,
) -> None:
    """Draw the first codebook's codes of some items, one colour per code, below the originals if given.

    Codes with one axis (audio) are drawn as a band over time; for a clip, the last frame is below the first.
    """
    rows = 1 if originals is None else 2
    figure = Figure(figsize=(1.3 * len(codes), 1.35 * rows), layout="constrained")
    for index, item in enumerate(codes):
        if originals is not None:
            axes = figure.add_subplot(rows, len(codes), index + 1)
            axes.imshow(originals[index].movedim(0, -1).expand(-1, -1, 3).numpy(), interpolation="nearest")
            axes.set_axis_off()
        axes = figure.add_subplot(rows, len(codes), (rows - 1) * len(codes) + index + 1)
        axes.imshow(
            code_pixels(item[0], num_codes),
            interpolation="nearest",
            aspect="equal" if item[0].ndim > 1 else "auto",
        )
        axes.set_axis_off()
    save_figure(figure, path)


def code_pixels(codes: Int64[Tensor, "*grid"], num_codes: int) -> UInt8[np.ndarray, "height width 3"]:
    """Return one RGB pixel per code of one codebook; a clip's last frame is below its first."""
    shades = np.random.default_rng(0).permutation(num_codes)  # distinct colours for adjacent codes
    plane = np.atleast_2d(shades[_flat(codes)]) / max(num_codes - 1, 1)
    return colormaps["turbo"](plane, bytes=True)[..., :3]


def horizon_curves(curves: dict[str, dict[str, Sequence[float]]], path: Path) -> None:
    """Plot metrics over generated frames: one panel per metric, one curve per kind of clip."""
    figure = Figure(figsize=(4.2 * len(curves), 3.0), layout="constrained")
    for index, (title, lines) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), index + 1)
        for number, (name, values) in enumerate(lines.items()):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(np.arange(1, len(values) + 1), values, "o-", color=colour, label=name, markersize=3)
        finish_axes(axes, title, "frame after the last given one")
        axes.legend(frameon=False, fontsize=7)
    save_figure(figure, path)


def _flat(codes: Int64[Tensor, "*grid"]) -> Int64[np.ndarray, "*plane"]:
    """Codes to plot: unchanged, or the first and last frame of a clip."""
    return (codes if codes.ndim < 3 else cat([codes[0], codes[-1]])).numpy()


def finish_axes(axes: Axes, title: str, x_label: str) -> None:
    """Apply the style of all figures: title, label, small ticks, no frame."""
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x_label, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    # Atomic, since `reproduce` takes the figures of a run as the sign that it is finished.
    with atomic_file(path, durable=False) as temporary:
        figure.savefig(temporary, dpi=130)
