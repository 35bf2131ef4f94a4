"""Plots of arrays: curves for one axis, maps for two, and the middle slice for three."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from smalti.core.errors import InputError

SHOWN = 8
"""Maximum number of items in a preview; more would be too small to see."""


def array_figure(rows: Sequence[Sequence[np.ndarray]]) -> Image.Image:
    """Plot arrays in a grid: one row per element of `rows`, one column per item.

    Args:
        rows: items `(C, *size)`, with the originals in `rows[0]`; at most eight columns are shown.

    Raises:
        InputError: if the rows are empty or differ in length.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = {len(row) for row in rows}
    if len(counts) != 1 or 0 in counts:
        raise InputError(
            f"expected rows with the same number of arrays, at least one, received {[*map(len, rows)]}"
        )
    columns = min(SHOWN, len(rows[0]))
    figure = Figure(figsize=(1.6 * columns + 0.4, 1.4 * len(rows) + 0.2), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for column in range(columns):
        # Items of a column share one range, so that they can be compared; missing values are ignored.
        items = [row[column] for row in rows]
        low = min(float(np.nanmin(item)) for item in items)
        high = max(float(np.nanmax(item)) for item in items)
        margin = 0.05 * (high - low) or 1.0
        for axis, item in zip(axes[:, column], items, strict=True):
            if item.ndim == 2:
                axis.plot(item.T, linewidth=0.7)
                axis.set_ylim(low - margin, high + margin)
            else:
                axis.imshow(_map(item), vmin=low, vmax=high, cmap="viridis", aspect="auto")
            axis.set_xticks([])
            axis.set_yticks([])
    figure.tight_layout(pad=0.3)
    content = io.BytesIO()
    canvas.print_png(content)
    return Image.open(content).convert("RGB")


def _map(item: np.ndarray) -> np.ndarray:
    """Average the channels, and take the middle slice along the first of three axes."""
    flat = item.astype(np.float64).mean(0)
    return flat[flat.shape[0] // 2] if flat.ndim == 3 else flat
