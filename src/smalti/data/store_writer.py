"""Writing of a store, item by item."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from smalti.data.collected import Collected
from smalti.data.column_files import ColumnCollector
from smalti.data.store_layout import FORMAT, Decoded, Index, Shape


class StoreWriter:
    """Files of a store while they are written."""

    def __init__(
        self,
        directory: Path,
        shape: Shape,
        dtype: np.dtype,
        classes: Sequence[str] | None,
        actions: Sequence[str] | None,
        column_names: Mapping[str, Sequence[str]] | None,
    ) -> None:
        self.directory = directory
        self.collected = Collected(shape, dtype, classes, actions, ColumnCollector(column_names))
        self.signals_file: IO[bytes] = (directory / "signals.bin").open("wb")
        self.names_file: IO[bytes] = (directory / "names.txt").open("wb")

    @property
    def count(self) -> int:
        return self.collected.count

    def append(self, item: Decoded) -> None:
        self.signals_file.write(self.collected.append(item).data)
        self.names_file.write(json.dumps(item.name).encode("ascii") + b"\n")

    def finish(self, **description: Any) -> None:
        """Close the files of the items, and write labels, actions, columns and the index."""
        collected = self.collected
        classes, labels = collected.labels()
        action_names, actions = collected.actions()
        index = Index(
            format=FORMAT,
            count=self.count,
            shape=collected.shape,
            dtype=collected.dtype.name,
            names_bytes=self.names_file.tell(),
            classes=classes,
            actions=action_names,
            columns=collected.columns.write(self.directory),
            **description,
        )
        for file in (self.signals_file, self.names_file):
            file.close()
        others = {
            "labels.bin": labels,
            "lengths.bin": collected.lengths(),
            "sizes.bin": collected.sizes(),
            "actions.bin": actions,
        }
        for name, values in others.items():
            if values is not None:
                (self.directory / name).write_bytes(values.tobytes())
        (self.directory / "index.json").write_text(index.model_dump_json(indent=1), encoding="utf-8")

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *error: object) -> None:
        for file in (self.signals_file, self.names_file):
            # On a full disk, closing fails again for the buffered rest; the first error is the one to report.
            with suppress(OSError):
                file.close()
