"""Tables and plots of the comparisons of quantizers in `results/quantizers.jsonl`.

`python benchmarks/compared.py` draws the plots of the documents; `tables.py` writes the tables.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from smalti.studies.quantizers.autoencoders import columns_of
from smalti.studies.quantizers.bounds import decibels
from smalti.studies.quantizers.experiment import Column
from smalti.studies.quantizers.figures import rate_distortion
from smalti.studies.quantizers.report import note_on_marks, overview, tables_of
from smalti.studies.quantizers.significance import mean, short_name
from smalti.studies.records import Record, by, markdown, read_records

ROOT = Path(__file__).parents[1]
GAUSSIAN = {"gaussian": "independent", "gaussian-0.9": "correlation 0.9"}
"""Data sets of Gaussian vectors, and their names in the tables."""
TRAINED = {
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "an4": "AN4",
    "frames-9": "frames",
    "frames-14": "frames",
}
"""Data sets of trained autoencoders, and their names in the tables."""
ERROR = Column("mse_over_variance", "MSE / variance", ".3f", has_error=True, is_score=True)
ABOVE = Column("above_shannon_db", "above Shannon, dB", ".2f", has_error=True, is_score=True)
USAGE = Column("usage", "usage", ".0%")
KMEANS = "k-means (Lloyd)"
MARKERS = ("o", "s")
COLOURS = ("#9ecae1", "#2171b5")


def comparison(dataset: str) -> str:
    """Tables of a comparison: rate and distortion; code use, cost and loss weights.

    Args:
        dataset: name that `collect.py --dataset` gave it.
    """
    chosen = [record for record in records() if record["dataset"] == dataset]
    if not chosen:
        return "No results yet.\n"
    unit = "nats" if "nats_per_dim" in chosen[0]["metrics"] else "bits"
    tables = [markdown(*table) for table in tables_of(chosen, columns_of(unit))]
    return "\n".join((note_on_marks(chosen) + "\n", *tables))


def gaussian() -> str:
    """Table of the decibels above the Shannon bound, by quantizer, correlation and rate."""
    chosen = [record for record in records() if record["dataset"] in GAUSSIAN]
    if not chosen:
        return "No results yet.\n"
    header, rows = overview(chosen, ABOVE, GAUSSIAN)
    references = [KMEANS, *(f"{kmeans_db(group):.2f}" for group in groups(chosen).values())]
    return f"{note_on_marks(chosen)}\n\n{markdown(header, [references, *rows])}"


def gaussian_usage() -> str:
    """Table of the share of codes that occur among the test vectors."""
    chosen = [record for record in records() if record["dataset"] in GAUSSIAN]
    return markdown(*overview(chosen, USAGE, GAUSSIAN)) if chosen else "No results yet.\n"


def errors() -> str:
    """Table of the squared errors, by quantizer, data set and rate."""
    return _overview(ERROR)


def usage() -> str:
    """Table of the share of codes that occur in the test items, by quantizer, data set and rate."""
    return _overview(USAGE)


def _overview(column: Column) -> str:
    chosen = [record for record in records() if record["dataset"] in TRAINED]
    return markdown(*overview(chosen, column, TRAINED)) if chosen else "No results yet.\n"


def records() -> list[Record]:
    """Read the records of all comparisons."""
    return read_records(ROOT / "results" / "quantizers.jsonl")


def groups(chosen: list[Record]) -> dict[tuple[str, float], list[Record]]:
    """Group records by data set and rate, in the order of the columns."""
    found = by(chosen, "dataset", "asked_bits")
    return {key: found[key] for key in sorted(found, key=lambda key: (list(GAUSSIAN).index(key[0]), key[1]))}


def kmeans_db(group: list[Record]) -> float:
    """Decibels of k-means above the Shannon bound, at the nominal rate that was asked for."""
    nearest = min(group, key=lambda record: abs(record["bits"] - record["asked_bits"]))["metrics"]
    return decibels(nearest["kmeans"] / nearest["shannon"])


def draw(path: Path) -> None:
    """Plot the decibels of each quantizer above the Shannon bound, one panel per rate."""
    found = groups([record for record in records() if record["dataset"] in GAUSSIAN])
    if not found:
        return
    rates = sorted({bits for _, bits in found})
    names = list(dict.fromkeys(short_name(r) for group in found.values() for r in group))[::-1]
    figure = Figure(figsize=(2 + 2.6 * len(rates), 0.8 + 0.19 * len(names)), layout="constrained")
    for panel, bits in enumerate(rates):
        axes = figure.add_subplot(1, len(rates), panel + 1)
        for dataset, marker, colour in zip(GAUSSIAN, MARKERS, COLOURS, strict=True):
            group = found.get((dataset, bits), [])
            if not group:
                continue
            axes.axvline(kmeans_db(group), color=colour, linewidth=1, linestyle=":", zorder=0)
            values = {
                name: mean([r["metrics"]["above_shannon_db"] for r in rows])
                for name, rows in by([{**r, "name": short_name(r)} for r in group], "name").items()
            }
            places = [names.index(name) for name in values]
            label = GAUSSIAN[dataset] if panel == 0 else None
            axes.plot(list(values.values()), places, marker, color=colour, markersize=5, label=label)
        axes.set_yticks(range(len(names)), names if panel == 0 else [""] * len(names), fontsize=8)
        axes.set_xlim(left=0)
        axes.set_title(f"{bits:g} bits", fontsize=9)
        axes.set_xlabel("dB above the Shannon bound", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="#e5e8ec", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def draw_all(folder: Path) -> None:
    """Draw the plots of all comparisons into a folder."""
    draw(folder / "gaussian.png")
    for dataset, chosen in by(records(), "dataset").items():
        if dataset in TRAINED:
            rate_distortion(chosen, (), folder / f"quantizers_{dataset.replace('-', '_')}.png")


if __name__ == "__main__":
    draw_all(ROOT / "docs" / "images")
