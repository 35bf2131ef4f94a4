"""PNG figures of speech: code-phone matrices, pitch curves and spectrograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from smalti.nn.spectral import ShortTimeFourier

INK, SOFT = "#1f3a5f", "#c8553d"
SHADES = LinearSegmentedColormap.from_list("shades", ["white", "#e9a08f", SOFT, INK])

WINDOW_SECONDS, HOP_SECONDS = 0.032, 0.008
"""Spectrogram window, long enough to resolve harmonics and short enough to resolve bursts, and hop."""

RANGE_DB = 70
"""Dynamic range shown below the loudest point."""


def code_phone_matrix(counts: Int64[np.ndarray, "k p"], phones: Sequence[str], path: Path) -> None:
    """Plot p(phone | code) as a heat map: one column per code and one row per phone that occur.

    Codes are sorted by their most frequent phone, then by its probability, so that informative codes form a
    staircase. Phones are sorted by the number of codes whose most frequent phone they are.

    Args:
        counts: co-occurrences of codes and phones, not all 0.
        phones: name of each phone.
        path: path of the PNG.
    """
    used = np.flatnonzero(counts.sum(1))
    share = counts[used] / counts[used].sum(1, keepdims=True)
    best = share.argmax(1)
    num_codes = np.bincount(best, minlength=len(phones))
    present = np.flatnonzero(counts.sum(0))
    rows = present[np.lexsort((-counts.sum(0)[present], -num_codes[present]))]
    rank = np.zeros(len(phones), np.int64)
    rank[rows] = np.arange(len(rows))
    columns = np.lexsort((-share.max(1), rank[best]))
    height = max(2.4, 0.13 * len(rows) + 1.0)
    figure = Figure(figsize=(min(12.0, max(5.0, 0.05 * len(used) + 2)), height), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        100 * share[columns][:, rows].T,
        aspect="auto",
        cmap=SHADES,
        vmin=0,
        vmax=100,
        interpolation="nearest",
    )
    axes.set_yticks(np.arange(len(rows)), [phones[int(row)] for row in rows])
    # Boundaries between the codes of one phone and the next.
    edges = np.cumsum(num_codes[rows])[:-1]
    axes.vlines(edges[edges < len(used)] - 0.5, -0.5, len(rows) - 0.5, color=INK, linewidth=0.3, alpha=0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _colour_bar(figure, image, [axes], "p(phone | code), %")
    _finish(axes, f"{len(used)} of {len(counts)} codes occur", "codes, sorted by their most frequent phone")
    _save(figure, path)


def f0_curves(curves: Mapping[str, Float[np.ndarray, " frames"]], hop_seconds: float, path: Path) -> None:
    """Plot the F0 of several signals over time, in stacked panels with shared axes.

    Args:
        curves: title -> F0 of each frame in Hz, NaN where unvoiced.
        hop_seconds: time between frames; frame i is centred on (i + 0.5) * hop_seconds.
        path: path of the PNG.
    """
    voiced = np.concatenate([curve[np.isfinite(curve)] for curve in curves.values()])
    low, high = (voiced.min() / 1.1, voiced.max() * 1.1) if len(voiced) else (60.0, 400.0)
    figure = Figure(figsize=(6.4, 1.25 * len(curves) + 0.5), layout="constrained")
    panels = figure.subplots(len(curves), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (title, curve) in zip(panels, curves.items(), strict=True):
        times = (np.arange(len(curve)) + 0.5) * hop_seconds
        # Points rather than a line, which would interpolate across phone boundaries.
        axes.plot(times, curve, "o", color=INK, markersize=2.5, markeredgewidth=0)
        if np.isfinite(curve).any():
            median = float(np.nanmedian(curve))
            axes.axhline(median, color=SOFT, linewidth=0.8, linestyle="--")
            title = f"{title} (median {median:.0f} Hz)"
        else:
            title = f"{title} (unvoiced)"
        axes.set_yscale("log")
        ticks = [hz for hz in (50, 75, 100, 150, 200, 300, 400, 600) if low <= hz <= high]
        axes.set_yticks(ticks, [str(hz) for hz in ticks])
        axes.minorticks_off()
        axes.set_ylim(low, high)
        axes.set_ylabel("F0, Hz", fontsize=8)
        _finish(axes, title, "")
    panels[-1].set_xlabel("time, s", fontsize=8)
    longest = max(len(curve) for curve in curves.values())
    panels[-1].set_xlim(0, max(longest, 1) * hop_seconds)
    _save(figure, path)


def spectrograms(waveforms: Mapping[str, Float[np.ndarray, " t"]], sample_rate_hz: int, path: Path) -> None:
    """Plot magnitude spectrograms of several signals side by side, with a shared colour scale.

    Args:
        waveforms: title -> samples in [-1, 1], at least one frame (8 ms).
        sample_rate_hz: sample rate of all waveforms.
        path: path of the PNG.
    """
    hop = round(HOP_SECONDS * sample_rate_hz)
    transform = ShortTimeFourier(hop, round(WINDOW_SECONDS * sample_rate_hz))
    levels = {
        title: 20 * transform(torch.from_numpy(waveform)[None, None])[0].abs().clamp_min(1e-7).log10().numpy()
        for title, waveform in waveforms.items()
    }
    loudest = max(float(level.max()) for level in levels.values())
    figure = Figure(figsize=(3.4 * len(levels) + 0.6, 2.8), layout="constrained")
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    image = None
    for axes, (title, level) in zip(panels, levels.items(), strict=True):
        image = axes.imshow(
            level,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=loudest - RANGE_DB,
            vmax=loudest,
            extent=(0, level.shape[1] * hop / sample_rate_hz, 0, sample_rate_hz / 2000),
            interpolation="nearest",
        )
        _finish(axes, title, "time, s")
    panels[0].set_ylabel("frequency, kHz", fontsize=8)
    if image is not None:
        _colour_bar(figure, image, list(panels), "dB of full scale")
    _save(figure, path)


def _colour_bar(figure: Figure, image: ScalarMappable, panels: Sequence[Axes], label: str) -> None:
    bar = figure.colorbar(image, ax=panels, fraction=0.03, pad=0.01, aspect=35)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=8)


def _finish(axes: Axes, title: str, x_label: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x_label, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
