"""Codes files as a source, for training the next stage on the codes of the previous one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np
import pyarrow.parquet as pq

from smalti.core.errors import InputError
from smalti.data.codes import METADATA_KEY, CodesInfo, check_codes, read_codes
from smalti.data.manifest import has_plan, read_plan, read_record
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import ordered_splits, require_split
from smalti.data.sources.parquet import files_by_split, parquet_files


@final
class CodesSource(Source):
    """A codes file, or a folder of codes files named by split: `train.parquet`, `test.parquet`.

    An item is an int64 array `(G, *grid)`.

    Args:
        path: the file or folder.

    Raises:
        InputError: if a file is damaged, the files come from different models, there are no codes, or a
            shard is not complete.
    """

    def __init__(self, path: Path):
        files = codes_files(path) if path.is_dir() else [path]
        self._files = files_by_split(files, path if path.is_dir() else path.parent)
        self.splits = ordered_splits(self._files)
        self.info: CodesInfo = read_codes(files[0])[0]
        for file in files[1:]:
            check_codes(read_codes(file)[0], self.info)
        self._counts = {
            split: sum(pq.read_metadata(file).num_rows for file in group)
            for split, group in self._files.items()
        }
        if not any(self._counts.values()):
            raise InputError(f"expected codes in {path}, found none: encode data with smalti encode")
        sizes = ", ".join(f"{name} {self._counts[name]:,}" for name in self.splits)
        grid = "x".join(str(side or "any") for side in self.info.grid)
        self.description = (
            f"codes {grid} out of {self.info.num_codes} of the model {self.info.model} {path} ({sizes})"
        )

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return True for a codes file, or a folder of nothing else."""
        files = codes_files(path) if path.is_dir() else [path]
        return bool(files) and all(file.suffix.lower() == ".parquet" and _has_codes(file) for file in files)

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return self._counts[split]

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        for file in self._files[split]:
            for names, codes, labels, *_ in read_codes(file)[1]:
                for name, grid, label in zip(names, codes, labels, strict=True):
                    yield Item(name, np.asarray(grid), label)


def codes_files(folder: Path) -> list[Path]:
    """Return the Parquet files below a folder of codes, in order: those of its plan, if it has one.

    Raises:
        InputError: if a shard of the plan is not complete.
    """
    if not has_plan(folder):
        return parquet_files(folder)
    plan = read_plan(folder)
    shards = range(plan.num_shards)
    missing = sum(read_record(folder, plan, shard) is None for shard in shards)
    if missing:
        raise InputError(
            f"expected complete codes in {folder}, but {missing} of {plan.num_shards} shards are missing: "
            "run the same smalti encode command again"
        )
    return [folder / plan.file(shard) for shard in shards]


def _has_codes(file: Path) -> bool:
    try:
        return METADATA_KEY in (pq.read_schema(file).metadata or {}) and {"name", "codes"} <= set(
            pq.read_schema(file).names
        )
    except (OSError, ValueError):  # pyarrow's errors among them
        return False
