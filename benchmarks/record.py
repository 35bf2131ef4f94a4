"""Speed records: one JSON line for each comparison, appended to `benchmarks/results/AREA.jsonl`."""

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
    """Append a comparison to the records of `area`, print it as a line, and return it.

    Args:
        area: name of the file of records.
        work: what was done, with all sizes.
        peer: what ours is compared with.
        threads: threads that both were given.
        ours: what ours takes, in `unit`.
        theirs: what the peer takes, in `unit`.
        unit: of something of which less is better, so that a ratio theirs / ours above 1 says that ours is
            better.
        packages: packages whose versions belong to the comparison, beside torch and smalti.
        more: further fields.
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
    print(f"{work}: ours {ours.wall:.4g} {unit}, {peer} {theirs.wall:.4g} {unit}, ratio {line['ratio']:.3g}")
    return line
