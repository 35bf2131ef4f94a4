"""Pictures of arrays for people: curves of one axis, maps of two, middle slices of three."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from smalti.core.errors import InputError

SHOWN = 8
"""Items in a preview: more would be too small to see."""


def array_figure(rows: Sequence[Sequence[np.ndarray]]) -> Image.Image:
    """Each item of `rows[0]` with those of the other rows under it.

    Args:
        rows: items `(C, *size)`, the originals first; at most eight are shown.

    Raises:
        InputError: when there is nothing to show, or the rows differ in number.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = {len(row) for row in rows}
    if len(counts) != 1 or 0 in counts:
        raise InputError(f"expected rows of equally many arrays, received {[len(row) for row in rows]}")
    columns = min(SHOWN, len(rows[0]))
    figure = Figure(figsize=(1.6 * columns + 0.4, 1.4 * len(rows) + 0.2), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for column in range(columns):
        # One range for what is to be compared; missing values have no say in it.
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
    """The mean over the channels, and the middle of the first of three axes."""
    flat = item.astype(np.float64).mean(0)
    return flat[flat.shape[0] // 2] if flat.ndim == 3 else flat
