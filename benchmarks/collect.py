"""Merge the records of `smalti reproduce` or `compare` into `results/`: `python benchmarks/collect.py OUT`.

Speech studies go to `speech.jsonl`, studies of worlds to `video.jsonl`, comparisons of quantizers to
`quantizers.jsonl`, all others to `likelihood.jsonl`. A record replaces one of the same experiment, budget,
data, model, prior and seed, or of the same data, quantizer, rate and seed. `make results` then updates the
tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from names import with_present_names

from smalti.studies.records import Record, read_records, write_records

RESULTS = Path(__file__).parents[1] / "results"
SPEECH = ("speech", "conversion", "voices-codec", "phonemes")
VIDEO = ("lab", "video")
COMPARISON = "compare"


def key(record: Record) -> tuple[str, ...]:
    """Return the key that identifies a record."""
    record = with_present_names(record)
    if record["experiment"] == COMPARISON:
        return tuple(str(record[name]) for name in ("dataset", "entry", "seed"))
    if record["experiment"] in SPEECH + VIDEO:
        names = ("experiment", "budget", "dataset", "model", "prior", "seed")
        return tuple(str(record[name]) for name in names)
    kind = "swaps" if "swaps" in record["metrics"] else "bounds"
    return (kind, *(str(record[name]) for name in ("experiment", "budget", "entry", "prior", "seed")))


def main(
    out: Annotated[Path, typer.Argument(help="Output directory (--out) of smalti reproduce or compare.")],
    dataset: Annotated[
        str | None, typer.Option(help="Name of the data set in records of speech, video and quantizers.")
    ] = None,
) -> None:
    """Merge the records, except those of the tiny budget."""
    files = [out / "records.jsonl", *sorted(out.glob("*/records.jsonl"))]
    new = [record for path in files for record in read_records(path) if record.get("budget") != "tiny"]
    for area, chosen in (
        ("likelihood", [r for r in new if r["experiment"] not in (*SPEECH, *VIDEO, COMPARISON)]),
        ("video", [r for r in new if r["experiment"] in VIDEO]),
        ("speech", [r for r in new if r["experiment"] in SPEECH]),
        ("quantizers", [r for r in new if r["experiment"] == COMPARISON]),
    ):
        if not chosen:
            continue
        path = RESULTS / f"{area}.jsonl"
        merged = {key(record): record for record in read_records(path)}
        for record in chosen:
            named = record if dataset is None or area == "likelihood" else {**record, "dataset": dataset}
            merged[key(named)] = named
        write_records(path, list(merged.values()))
        print(f"{len(merged)} records in {path.name}")


if __name__ == "__main__":
    typer.run(main)
