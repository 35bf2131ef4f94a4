"""Take what `smalti reproduce` wrote into `results/likelihood.jsonl`: `python benchmarks/collect.py OUT`.

A record replaces one of the same experiment, model, prior and seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smalti.verbs.records import Record, read_records, write_records

RESULTS = Path(__file__).parents[1] / "results" / "likelihood.jsonl"


def key(record: Record) -> tuple[str, ...]:
    """What a record is the result of."""
    return tuple(str(record[name]) for name in ("experiment", "entry", "prior", "seed"))


def main(
    out: Annotated[Path, typer.Argument(help="The --out of smalti reproduce.")],
    at_commit: Annotated[
        str | None, typer.Option("--commit", help="Commit that trained it, where that is not in the records.")
    ] = None,
) -> None:
    """Merge the records."""
    merged = {key(record): record for record in read_records(RESULTS)}
    for path in sorted(out.glob("*/records.jsonl")):
        for record in read_records(path):
            merged[key(record)] = {**record, "commit": at_commit or record["commit"]}
    write_records(RESULTS, list(merged.values()))
    print(f"{len(merged)} records in {RESULTS.name}")


if __name__ == "__main__":
    typer.run(main)
