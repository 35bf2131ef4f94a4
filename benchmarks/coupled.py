"""Table and plot of the training of `models/cifar10-coupled`, from `results/coupled.jsonl`.

`python benchmarks/coupled.py` draws the plot; `tables.py` writes the table.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from smalti.studies.records import Record, markdown, read_records

ROOT = Path(__file__).parents[1]
PAPER = 4.67
"""Bits/dim of the paper's VQ-VAE on all of CIFAR-10, whose likelihood is a softmax."""
COLOURS = {"JPEG": "#9ecae1", "lossless": "#2171b5"}


def records() -> list[Record]:
    """Evaluations in the order of training."""
    return read_records(ROOT / "results" / "coupled.jsonl")


def table() -> str:
    """Bits/dim of the test images by the number of training images seen."""
    rows = [
        [
            record["stage"],
            f"{record['steps']:,}",
            f"{record['images']:,}",
            f"{record['metrics']['bits_per_dim']:.3f} ± {record['metrics']['stderr']:.3f}",
        ]
        for record in records()
    ]
    return markdown(["training images", "steps", "images seen in all", "bits/dim, uniform prior"], rows)


def draw(path: Path) -> None:
    """Plot bits/dim over the number of training images seen."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    seen = [record["images"] / 1e6 for record in records()]
    values = [record["metrics"]["bits_per_dim"] for record in records()]
    axes.plot(seen, values, color="#c4cad1", linewidth=1, zorder=0)
    for record, x, y in zip(records(), seen, values, strict=True):
        kind = record["stage"].partition(",")[0]
        axes.errorbar(x, y, record["metrics"]["stderr"], fmt="o", color=COLOURS[kind], capsize=2)
        axes.annotate(f"{y:.2f}", (x, y), (4, 6), textcoords="offset points", fontsize=8)
    for name, colour in COLOURS.items():
        axes.plot([], [], "o", color=colour, label=f"after {name} images")
    axes.axhline(PAPER, color="#d95f02", linewidth=1, linestyle=":", label="the paper, 32 million images")
    axes.set_xlabel("training images seen, millions", fontsize=9)
    axes.set_ylabel("bits/dim, 1,017 lossless test images", fontsize=9)
    axes.set_xlim(left=0)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(ROOT / "docs" / "images" / "coupled.png")
