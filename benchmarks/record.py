"""Speed records: one JSON line per comparison, appended to `benchmarks/results/AREA.jsonl`."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

from timing import Time

from smalti.app.provenance import commit, device

HERE = Path(__file__).parent


def record(
    area: str,
    work: str,
    peer: str,
    threads: int,
    ours: Time,
    theirs: Time,
    unit: str = "s",
    packages: tuple[str, ...] = (),
    **more: object,
) -> dict[str, object]:
    """Append a comparison to the records of `area`, print it, and return it.

    Args:
        area: name of the file of records.
        work: description of the work, with all sizes.
        peer: name of the alternative.
        threads: number of threads of both.
        ours: time of smalti, in `unit`.
        theirs: time of the alternative, in `unit`.
        unit: unit of a quantity where less is better, so that a ratio theirs / ours above 1 favours smalti.
        packages: packages whose versions to record, in addition to torch and smalti.
        more: additional fields.
    """
    line = {
        "work": work,
        "peer": peer,
        "threads": threads,
        "ours": ours.wall,
        "theirs": theirs.wall,
        "unit": unit,
        "ratio": theirs.wall / ours.wall,
        "ours_processor": ours.processor,
        "theirs_processor": theirs.processor,
        "device": device(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "smalti", *packages)},
        "commit": commit(),
        **more,
    }
    path = HERE / "results" / f"{area}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as records:
        records.write(json.dumps(line) + "\n")
    times = f"smalti {ours.wall:.4g} {unit}, {peer} {theirs.wall:.4g} {unit}"
    print(f"{work}: {times}, ratio {line['ratio']:.3g}")
    return line
