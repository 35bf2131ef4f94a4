"""Data sets of the Hugging Face Hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from smalti.core.errors import InputError
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import (
    LABEL_COLUMNS,
    SIGNAL_COLUMNS,
    SPLIT_NAMES,
    class_name,
    ordered_splits,
    preferred_first,
    require_split,
    signal_content,
)

if TYPE_CHECKING:
    from datasets import Dataset


@final
class HubSource(Source):
    """A data set of the Hugging Face Hub, downloaded once by `datasets` and kept in its cache.

    Args:
        name: "owner/name", or "owner/name:config" for a data set with several configurations.

    Raises:
        InputError: if it cannot be downloaded, or has no column of images, audio or bytes.
    """

    def __init__(self, name: str):
        tables = _load(name)
        self._cache = _cache()
        self._tables = {_split_name(split, tables): table for split, table in tables.items()}
        self.splits = ordered_splits(self._tables)
        features = next(iter(self._tables.values())).features
        self._signal = _signal_column(features, name)
        self._label = _label_column(features)
        self._tables = {split: self._undecoded(table) for split, table in self._tables.items()}
        sizes = ", ".join(f"{split} {self._tables[split].num_rows:,}" for split in self.splits)
        self.description = f"{name} of the Hugging Face Hub, column {self._signal} ({sizes})"

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return self._tables[split].num_rows

    def items(self, split: str) -> Iterator[Item]:
        return self.section(split, 0, self.count(split))

    def section(self, split: str, begin: int, end: int) -> Iterator[Item]:
        return self._section(split, begin, end, has_contents=True)

    def annotations(self, split: str) -> Iterator[Item]:
        return self._section(split, 0, self.count(split), has_contents=False)

    def _section(self, split: str, begin: int, end: int, has_contents: bool) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        table = self._tables[split]
        names = None if self._label is None else getattr(table.features[self._label], "names", None)
        numbers = range(begin, min(end, self.count(split)))
        if not has_contents:
            if self._label is None:
                yield from (Item(f"{split}#{index}", b"") for index in numbers)
                return
            table = table.select_columns([self._label])
        row: dict[str, Any]
        for index, row in zip(numbers, table.select(numbers), strict=True):  # pyright: ignore[reportAssignmentType]
            label = None if self._label is None else row[self._label]
            content = signal_content(row[self._signal], self._cache) if has_contents else b""
            yield Item(f"{split}#{index}", content, class_name(label, names))

    def _undecoded(self, table: Dataset) -> Dataset:
        """Select the needed columns, with the signal as the bytes of its file."""
        columns = [column for column in (self._signal, self._label) if column is not None]
        table = table.select_columns(columns).with_format(None)
        feature = table.features[self._signal]
        if not hasattr(feature, "decode"):
            return table
        return table.cast_column(self._signal, type(feature)(decode=False))


def _cache() -> Path:
    """Return the cache folder of `datasets`; rows may only refer to files below it."""
    from datasets import config

    return Path(config.HF_CACHE_HOME)


def _load(name: str) -> dict[str, Dataset]:
    """Load the tables by split, with the split names of the Hub."""
    import datasets  # the import takes seconds, so it is left until a data set of the Hub is opened

    repository, _, configuration = name.partition(":")
    # The libraries log each attempt; the error below says it once.
    logs = [logging.getLogger(library) for library in ("datasets", "huggingface_hub")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.CRITICAL)
        tables = datasets.load_dataset(repository, configuration or None)
    except Exception as error:
        # Failures come from half a dozen libraries (network, authorisation, configuration, format), each
        # with its own exceptions.
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
        raise InputError(
            f"expected a local folder or a data set of the Hugging Face Hub, got {name}: no local folder "
            f"has that name, and the Hub's data set could not be loaded ({reason}); "
            "check the name and the network"
        ) from error
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
    return {str(split): table for split, table in tables.items()}  # pyright: ignore[reportReturnType]


def _split_name(split: str, splits: dict[str, Dataset]) -> str:
    """Return the name used here for a split, or its own name if another split already has that one."""
    known = SPLIT_NAMES.get(split.lower(), split)
    return split if known in splits else known


def _signal_column(features: Any, name: str) -> str:
    from datasets import Audio, Image

    def holds_signal(feature: object) -> bool:
        dtype = getattr(feature, "dtype", "")
        return isinstance(feature, Audio | Image) or dtype in ("binary", "large_binary")

    candidates = [column for column, feature in features.items() if holds_signal(feature)]
    if not candidates:
        columns = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())
        raise InputError(
            f"expected a column of images, audio or bytes in the data set {name}, got the columns {columns}: "
            "choose another data set, or another configuration of it as owner/name:configuration"
        )
    return preferred_first(candidates, SIGNAL_COLUMNS)[0]


def _label_column(features: Any) -> str | None:
    def is_label(feature: object) -> bool:
        dtype = str(getattr(feature, "dtype", ""))
        return dtype.startswith(("int", "uint")) or dtype in ("string", "large_string")

    return next((column for column in LABEL_COLUMNS if is_label(features.get(column))), None)
