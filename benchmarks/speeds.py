"""Tables of the timed comparisons, from the records under `benchmarks/results`."""

from __future__ import annotations

from pathlib import Path

from names import records_of

from smalti.studies.records import Record, markdown

RESULTS = Path(__file__).parent / "results"


def speed() -> str:
    """Table of the single-threaded comparisons that have a target, with the outcome."""
    chosen = [r for r in newest_comparisons() if r["threads"] == 1 and limit(r)]
    rows = [[*row_of_speed(r)[:1], *row_of_speed(r)[2:], limit(r)] for r in chosen]
    return markdown(["work", "compared with", "smalti", "alternative", "ratio", "target"], rows)


def speed_in_full() -> str:
    """Table of all comparisons."""
    header = ["work", "threads", "compared with", "smalti", "alternative", "ratio", "CPU time ratio"]
    return markdown(header, [[*row_of_speed(r), processor_ratio(r)] for r in newest_comparisons()])


def processor_ratio(r: Record) -> str:
    """Return the ratio of the processor times; "-" where one of them is not known."""
    ours, theirs = r["ours_processor"], r["theirs_processor"]
    return f"{three_digits(theirs / ours)}x" if ours and theirs else "-"


def newest_comparisons() -> list[Record]:
    """Return the newest record of each comparison, ordered by work."""
    newest = {
        (r["work"], r["threads"], r["peer"]): r
        for path in sorted(RESULTS.glob("*.jsonl"))
        for r in records_of(path)
    }
    order = list(dict.fromkeys(r["work"] for r in newest.values()))
    return sorted(newest.values(), key=lambda r: (order.index(r["work"]), r["threads"]))


def row_of_speed(r: Record) -> list[str]:
    """Return the cells work, threads, peer, time of smalti, time of the alternative, ratio."""
    ratio = f"{three_digits(r['ratio'])}x"
    return [r["work"], str(r["threads"]), r["peer"], pace(r, "ours"), pace(r, "theirs"), ratio]


def limit(r: Record) -> str:
    """Return the target of a comparison and its outcome; empty without a target."""
    if r.get("target") is not None:
        wanted, is_reached = f"{r['target']}x", r["ratio"] >= r["target"]
    elif "limit_mib" in r:
        wanted, is_reached = f"under {r['limit_mib']} MiB", r["ours"] < r["limit_mib"]
    elif "limit_s" in r:
        wanted, is_reached = f"under {r['limit_s']} s", r["ours"] < r["limit_s"]
    else:
        return ""
    return f"{wanted}: {'yes' if is_reached else 'no'}"


def pace(record: Record, whose: str) -> str:
    """Format samples per second if the record has them, else the time."""
    rate = record.get(f"{whose}_samples_per_second")
    if rate is not None:
        return f"{three_digits(rate)} samples/s"
    return f"{three_digits(record[whose])} {record['unit']}"


def three_digits(figure: float) -> str:
    """Format with three significant digits and thousands separators."""
    return f"{float(f'{figure:.3g}'):,g}"
