"""Means over seeds, and which quantizers cannot be told from the best."""

from __future__ import annotations

from collections.abc import Sequence

from smalti.studies.records import Record, by, standard_error

ERRORS = 2.0
"""Number of standard errors within which a difference is not seen."""


def values_of(records: Sequence[Record], metric: str) -> dict[int, float]:
    """Known values of a metric, by seed."""
    found = {record["seed"]: record["metrics"].get(metric) for record in records}
    return {seed: float(value) for seed, value in found.items() if value is not None}


def short_name(record: Record) -> str:
    """Name of the quantizer, without the rate."""
    rate = record["asked_bits"]
    return record["entry"] if rate is None else record["entry"].removesuffix(f", {rate:g} bits")


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def indistinguishable(records: Sequence[Record], metric: str) -> set[str]:
    """Entries with the lowest mean, or within two standard errors of it, at each rate.

    Entries are compared at the rate that was asked for; with one rate, also those with settings of their own.

    The standard error is that of the differences to the best over the seeds that both have (paired); with
    fewer than two such seeds only the best is named.

    Args:
        records: of all entries.
        metric: the lower, the better.
    """
    names: set[str] = set()
    groups = by(records, "asked_bits")
    for of_rate in groups.values() if len(set(groups) - {None}) > 1 else [records]:
        values = {
            entry: known for entry, rows in by(of_rate, "entry").items() if (known := values_of(rows, metric))
        }
        if not values:
            continue
        best = min(values, key=lambda entry: mean(list(values[entry].values())))
        names |= {entry for entry in values if entry == best or _is_near(values[entry], values[best])}
    return names


def _is_near(values: dict[int, float], best: dict[int, float]) -> bool:
    differences = [value - best[seed] for seed, value in values.items() if seed in best]
    error = standard_error(differences)
    return error is not None and mean(differences) <= ERRORS * error
