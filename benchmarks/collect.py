"""Take what `smalti reproduce` wrote into `results/likelihood.jsonl`: `python benchmarks/collect.py OUT`.

A record replaces one of the same experiment, budget, model, prior and seed. `make results` then makes the
tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smalti.verbs.records import Record, read_records, write_records

RESULTS = Path(__file__).parents[1] / "results" / "likelihood.jsonl"


def key(record: Record) -> tuple[str, ...]:
    """What a record is the result of."""
    kind = "swaps" if "swaps" in record["metrics"] else "bounds"
    return (kind, *(str(record[name]) for name in ("experiment", "budget", "entry", "prior", "seed")))


def main(
    out: Annotated[Path, typer.Argument(help="The --out of smalti reproduce.")],
) -> None:
    """Merge the records; those of the tiny budget are none."""
    merged = {key(record): record for record in read_records(RESULTS)}
    for path in sorted(out.glob("*/records.jsonl")):
        for record in read_records(path):
            if record["budget"] != "tiny":
                merged[key(record)] = record
    write_records(RESULTS, list(merged.values()))
    print(f"{len(merged)} records in {RESULTS.name}")


if __name__ == "__main__":
    typer.run(main)
