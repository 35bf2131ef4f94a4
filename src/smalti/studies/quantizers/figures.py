"""Plot of rate against distortion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from smalti.core.files import atomic_file
from smalti.studies.quantizers.experiment import Curve
from smalti.studies.quantizers.significance import mean, short_name, values_of
from smalti.studies.records import Record, by, standard_error

MARKERS = "osD^vPX<>p*h"
GREY = "#8a94a0"


def rate_distortion(records: Sequence[Record], curves: Sequence[Curve], path: Path) -> None:
    """Plot squared error over rate and, where a likelihood gives them, distortion over rate in bits/dim.

    A filled marker stands at the measured rate (learned prior, or else code frequencies), a hollow one at the
    nominal rate; bars are standard errors over seeds. Rates of one quantizer are joined.

    Args:
        records: of all units.
        curves: references, in the first panel.
        path: of the PNG.
    """
    unit = "bits" if _has(records, "bits_per_dim") else "nats" if _has(records, "nats_per_dim") else None
    has_errors = _has(records, "mse_over_variance")
    panels = [name for name, is_shown in (("mse", has_errors), ("sum", unit)) if is_shown]
    figure = Figure(figsize=(1.8 + 4.2 * len(panels), 3.6), layout="constrained")
    colours = matplotlib.colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    names = list(dict.fromkeys(short_name(record) for record in records))
    styles = {
        name: {"color": colours[index % len(colours)], "marker": MARKERS[index % len(MARKERS)]}
        for index, name in enumerate(names)
    }
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        if panel == "mse":
            _squared_errors(axes, records, curves, styles)
        else:
            _sums(axes, records, styles, str(unit))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    handles = {}
    for axes in figure.axes:
        shown, labels = axes.get_legend_handles_labels()
        handles |= {label: handle for handle, label in zip(shown, labels, strict=True) if label in styles}
        handles |= {label: handle for handle, label in zip(shown, labels, strict=True) if label not in styles}
    figure.legend(
        handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=8, numpoints=1
    )
    with atomic_file(path, durable=False) as temporary:
        figure.savefig(temporary, dpi=150)


def _squared_errors(
    axes: Axes, records: Sequence[Record], curves: Sequence[Curve], styles: dict[str, Any]
) -> None:
    measured = "bits_learned" if _has(records, "bits_learned") else "bits_unigram"
    for curve in curves:
        style: dict[str, Any] = {"linestyle": "-"} if curve.is_line else {"linestyle": "", "marker": "x"}
        axes.plot(*zip(*curve.points, strict=True), color=GREY, label=curve.name, zorder=1, **style)
    for name, group in _by_name(records).items():
        points = []
        for rows in by(group, "entry").values():
            x, y = values_of(rows, measured), values_of(rows, "mse_over_variance")
            if not x or not y:
                continue
            points.append((mean(list(x.values())), mean(list(y.values()))))
            nominal = rows[0]["bits"]
            colour = styles[name]["color"]
            axes.plot([points[-1][0], nominal], [points[-1][1]] * 2, color=colour, linewidth=0.6, alpha=0.6)
            axes.plot(nominal, points[-1][1], **styles[name], markersize=6, markerfacecolor="white")
            _point(axes, list(x.values()), list(y.values()), name, styles[name], not points[1:])
        _joined(axes, points, styles[name])
    if curves:
        axes.set_yscale("log")
    axes.set_xlabel("bits per item (hollow: nominal)", fontsize=9)
    axes.set_ylabel("mean squared error / variance", fontsize=9)


def _sums(axes: Axes, records: Sequence[Record], styles: dict[str, Any], unit: str) -> None:
    for name, group in _by_name(records).items():
        points = []
        for rows in by(group, "entry").values():
            x, y = (list(values_of(rows, metric).values()) for metric in ("rate", "distortion"))
            if not x or not y:
                continue
            points.append((mean(x), mean(y)))
            _point(axes, x, y, name, styles[name], not points[1:])
        _joined(axes, points, styles[name])
    axes.margins(0.25)
    _equal_sums(axes)
    axes.set_xlabel(f"rate under the learned prior, {unit}/dim", fontsize=9)
    axes.set_ylabel(f"distortion, {unit}/dim", fontsize=9)


def _equal_sums(axes: Axes) -> None:
    """Draw lines of equal rate + distortion, five or so across the panel."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for total in MaxNLocator(6).tick_values(left + bottom, right + top):
        axes.plot([left, right], [total - left, total - right], color=GREY, linewidth=0.5, zorder=0)
        x = right - 0.02 * (right - left)
        if bottom < total - x < top:
            axes.annotate(
                f"{total:.4g}", (x, total - x), fontsize=6, color=GREY, ha="right", va="bottom", zorder=0
            )
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _point(
    axes: Axes, x: Sequence[float], y: Sequence[float], name: str, style: dict[str, Any], is_first: bool
) -> None:
    axes.errorbar(
        mean(x),
        mean(y),
        xerr=standard_error(x),
        yerr=standard_error(y),
        **style,
        markersize=6,
        linestyle="",
        elinewidth=1,
        label=name if is_first else None,
    )


def _joined(axes: Axes, points: Sequence[tuple[float, float]], style: dict[str, Any]) -> None:
    if len(points) > 1:
        axes.plot(*zip(*sorted(points), strict=True), color=style["color"], linewidth=1)


def _by_name(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(short_name(record), []).append(record)
    return groups


def _has(records: Sequence[Record], metric: str) -> bool:
    return any(record["metrics"].get(metric) is not None for record in records)
