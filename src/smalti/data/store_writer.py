"""Writing of a store, item by item."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from smalti.core.errors import InputError
from smalti.data.column_files import ColumnWriter
from smalti.data.store_layout import FORMAT, Actions, Decoded, Index, Shape, num_open, some


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
        self.directory, self.shape, self.dtype, self.classes = directory, shape, dtype, classes
        self.action_names = actions
        self.actions: list[Actions | None] = []
        self.columns = ColumnWriter(column_names)
        self.num_open = num_open(shape)
        self.sizes: list[tuple[int, ...]] = []
        self.known = None if classes is None else frozenset(classes)
        self.labels: list[str | None] = []
        self.signals_file: IO[bytes] = (directory / "signals.bin").open("wb")
        self.names_file: IO[bytes] = (directory / "names.txt").open("wb")

    @property
    def count(self) -> int:
        return len(self.labels)

    def append(self, item: Decoded) -> None:
        name, array, label, actions, columns = item
        if not self._fits(array) or array.dtype != self.dtype:
            raise InputError(
                f"expected items of shape {self.shape} and type {self.dtype}, received "
                f"{array.shape} and {array.dtype} for {name}: bring all items to one shape and type"
            )
        if label is not None and self.known is not None and label not in self.known:
            raise InputError(
                f"expected one of the {len(self.known)} known classes ({some(self.classes or ())}), "
                f'received "{label}" for {name}: remove or rename that class, or train with it'
            )
        if actions is not None and (self.num_open != 1 or len(actions) != array.shape[1]):
            raise InputError(
                f"expected an action for each frame of a clip, received {len(actions)} actions for {name} of "
                f"shape {array.shape}: correct the actions, or leave them out"
            )
        self.columns.append(name, columns, array.shape[1] if array.ndim > 1 else None)
        if self.num_open:
            self.sizes.append(array.shape[1 : 1 + self.num_open])
            array = np.moveaxis(array, 0, self.num_open)
        self.signals_file.write(np.ascontiguousarray(array).data)
        self.names_file.write(json.dumps(name).encode("ascii") + b"\n")
        self.labels.append(label)
        self.actions.append(actions)

    def _fits(self, array: np.ndarray) -> bool:
        return array.ndim == len(self.shape) and all(
            given > 0 if side is None else given == side
            for given, side in zip(array.shape, self.shape, strict=True)
        )

    def finish(self, **description: Any) -> None:
        """Close the files of the items, and write labels, actions, columns and the index."""
        classes = (
            self.classes
            if self.classes is not None
            else sorted({label for label in self.labels if label is not None})
        )
        ids: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
        ids[None] = -1
        labels = np.fromiter((ids[label] for label in self.labels), np.int64, self.count)
        actions = self._write_actions()
        index = Index(
            format=FORMAT,
            count=self.count,
            shape=self.shape,
            dtype=self.dtype.name,
            names_bytes=self.names_file.tell(),
            classes=tuple(classes),
            actions=actions,
            columns=self.columns.write(self.directory),
            **description,
        )
        for file in (self.signals_file, self.names_file):
            file.close()
        (self.directory / "labels.bin").write_bytes(labels.tobytes())
        if self.num_open:
            lengths = np.array([math.prod(size) for size in self.sizes], np.int64)
            (self.directory / "lengths.bin").write_bytes(lengths.tobytes())
        if self.num_open > 1:
            (self.directory / "sizes.bin").write_bytes(np.array(self.sizes, np.int64).tobytes())
        (self.directory / "index.json").write_text(index.model_dump_json(indent=1), encoding="utf-8")

    def _write_actions(self) -> tuple[str, ...]:
        """Write the ids of the actions of all frames, if there are any, and return the names of the ids."""
        given = {name for actions in self.actions for name in actions or () if name is not None}
        names = sorted(given) if self.action_names is None else list(self.action_names)
        unknown = sorted(given - set(names))
        if unknown:
            raise InputError(
                f"expected one of the {len(names)} known actions ({some(names)}), received "
                f'"{unknown[0]}": remove or rename that action, or train with it'
            )
        if not names:
            return ()
        ids: dict[str | None, int] = {name: number for number, name in enumerate(names)}
        ids[None] = -1
        rows = [
            np.full(length, -1, np.int64)
            if actions is None
            else np.array([ids[name] for name in actions], np.int64)
            for actions, (length,) in zip(self.actions, self.sizes, strict=True)
        ]
        (self.directory / "actions.bin").write_bytes(np.concatenate(rows).tobytes())
        return tuple(names)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *error: object) -> None:
        for file in (self.signals_file, self.names_file):
            # On a full disk, closing fails again for the buffered rest; the first error is the one to report.
            with suppress(OSError):
                file.close()
