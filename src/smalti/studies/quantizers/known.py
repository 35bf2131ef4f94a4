"""Records of trainings that were done before, so that they need not be repeated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.core.parts import QuantizerConfig
from smalti.studies.quantizers import search
from smalti.studies.quantizers.experiment import Experiment
from smalti.studies.records import Record, read_records

Searched = tuple[search.Weights, list[dict[str, Any]]]
"""Chosen loss weights, and all trials with their scores."""

FIELDS = {"entry", "seed", "weights", "search", "measured_on", "config"}
"""Fields of a record by which it is compared with a training."""


@final
class KnownRecords:
    """Records of an experiment, by what they measured.

    Args:
        records: of any comparisons; those of other data, networks or budgets match nothing.
        experiment: data, networks and budget.
        num_trials: settings of the loss weights that a search tries.
    """

    def __init__(self, records: Sequence[Record], experiment: Experiment, num_trials: int) -> None:
        self._records, self._experiment, self._num = list(records), experiment, num_trials

    def __bool__(self) -> bool:
        """Return True if there are any records."""
        return bool(self._records)

    def searched(self, title: str, config: QuantizerConfig, keys: Sequence[str]) -> Searched | None:
        """Find a finished search of the loss weights.

        Args:
            title: of the quantizer and its rate.
            config: the quantizer with the default weights.
            keys: of the weights.

        Returns:
            The result, or None if no record tells it.
        """
        tried = search.trials(config, keys, self._num)
        expected = tried if len(tried) > 1 else []
        for record in self._records:
            trials = record.get("search")
            if record.get("entry") != title or not isinstance(trials, list):
                continue
            if [trial["weights"] for trial in trials] != expected:
                continue
            if self._is_of(record, config.changed(record["weights"]), record["seed"]):
                return record["weights"], trials
        return None

    def unit(self, title: str, config: QuantizerConfig, seed: int) -> Record | None:
        """Find the record of a training, or None.

        Args:
            title: of the quantizer and its rate.
            config: the quantizer with its weights.
            seed: of the training.
        """
        for record in self._records:
            named = (record.get("entry"), record.get("seed")) == (title, seed)
            if named and self._is_of(record, config, seed):
                return record
        return None

    def _is_of(self, record: Record, config: QuantizerConfig, seed: int) -> bool:
        """Return True if a record has the data and the settings of a training."""
        settings = self._experiment.unit_settings(config, seed)
        try:
            stored = type(settings).model_validate(record["config"])
        except ValidationError:
            return False
        return stored == settings and record["measured_on"] == self._experiment.measured_on


def read_known(paths: Sequence[Path]) -> list[Record]:
    """Read records of comparisons from JSON lines.

    Raises:
        InputError: if a file is missing or holds something else.
    """
    found: list[Record] = []
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"expected a file of records for --known, found none at {path}: correct the path"
            )
        try:
            records = read_records(path)
        except (UnicodeDecodeError, ValueError):
            raise InputError(
                f"expected one JSON record a line for --known, received something else in {path}: pass the "
                "records.jsonl of a comparison"
            ) from None
        found += [each for each in records if isinstance(each, dict) and _is_complete(each)]
    return found


def _is_complete(record: Record) -> bool:
    """Return True for a record of a comparison that states what it measured."""
    return record.get("experiment") == "compare" and record.keys() >= FIELDS
