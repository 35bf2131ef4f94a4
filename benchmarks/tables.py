"""Write the tables of the README and the docs from the records: `python benchmarks/tables.py [--check]`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from smalti.recipes.studies import BUDGETS, PAPER, PARTS, SCALES
from smalti.verbs.records import (
    Record,
    bounds_table,
    by,
    caption,
    markdown,
    read_records,
    swaps_table,
)

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/experiments.md", "docs/likelihood.md")
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def images() -> str:
    """Bits/dim and reconstruction for each model and prior."""
    rows = [
        [
            f"{r['dataset']} {r['split']} (n = {r['metrics']['num']:,})",
            r["model"],
            r["prior"],
            f"{r['metrics']['bits_per_dim']:.3f} ± {r['metrics']['stderr']:.3f}",
            f"{r['metrics']['rate']:.3f} + {r['metrics']['distortion']:.3f}",
            f"{r['metrics']['psnr']:.2f}",
            f"{r['metrics']['ssim']:.3f}",
            f"{r['metrics']['usage']:.1%}",
            f"{r['steps']:,} / {r['seconds'] / 60:.0f} min",
        ]
        for r in read_records(ROOT / "results" / "images.jsonl")
    ]
    header = [
        "data",
        "model",
        "prior",
        "bits/dim",
        "rate + distortion",
        "PSNR",
        "SSIM",
        "codes used",
        "steps / time",
    ]
    return markdown(header, rows)


def speed() -> str:
    """The newest comparison of each kind."""
    newest = {
        (r["work"], r["peer"], r["threads"]): r
        for path in sorted((ROOT / "benchmarks" / "results").glob("*.jsonl"))
        for r in read_records(path)
    }
    rows = [
        [
            r["work"],
            str(r["threads"]),
            r["peer"],
            f"{r['ours']:.3g} {r['unit']}",
            f"{r['theirs']:.3g} {r['unit']}",
            f"{r['ratio']:.3g}x",
        ]
        for r in newest.values()
    ]
    return markdown(["work", "threads", "beside", "ours", "theirs", "ratio"], rows)


def bounds(experiment: str) -> str:
    """Bits/dim of every model of a study, and the paper's figures where it has any, under their caption."""
    chosen = [r for r in likelihood(experiment) if "swaps" not in r["metrics"]]
    if not chosen:
        return "Not measured yet.\n"
    paper = PAPER if experiment == "cifar10-table" else {}
    return f"{caption(chosen)}\n\n{markdown(*bounds_table(chosen, paper))}"


def swaps() -> str:
    """The likelihood's approximation against sums over ever more codes."""
    chosen = [r for name in STUDIES for r in likelihood(name) if "swaps" in r["metrics"]]
    return markdown(*swaps_table(chosen))


def likelihood(experiment: str) -> list[Record]:
    """The records of one study, at the largest budget that there is."""
    chosen = by(read_records(ROOT / "results" / "likelihood.jsonl"), "experiment").get(experiment, [])
    largest = max((BUDGETS.index(record["budget"]) for record in chosen), default=0)
    return [record for record in chosen if record["budget"] == BUDGETS[largest]]


STUDIES = [f"{data}-{part}" for data in SCALES for part in PARTS]
TABLES: dict[str, Callable[[], str]] = {
    "images": images,
    "speed": speed,
    "swaps": swaps,
    **{name: lambda name=name: bounds(name) for name in STUDIES},
}


def filled(text: str) -> str:
    """A document with its tables made anew."""
    return MARK.sub(lambda mark: mark[1] + TABLES[mark[2]]() + mark[3], text)


def main() -> None:
    """Write all tables, or with --check say which are out of date."""
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text()
        if filled(text) != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(filled(text))
    if "--check" in sys.argv and stale:
        sys.exit(f"tables are out of date in {', '.join(stale)}: run `make results`")


if __name__ == "__main__":
    main()
