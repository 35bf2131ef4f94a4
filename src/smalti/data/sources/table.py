"""Tables of files, with the speaker or class, the split, and the actions of each."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import final

from smalti.core.errors import InputError
from smalti.data.actions import parse_actions
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import (
    LABEL_COLUMNS,
    class_name,
    ordered_splits,
    require_split,
    signal_content,
)
from smalti.data.sources.folder import FRAMES_ENDING, FolderSource
from smalti.data.sources.listing import ignored, normal_endings
from smalti.data.sources.splits import Entry, by_split, sizes_of, split_name

TABLE_NAMES = ("metadata.csv", "metadata.tsv", "utts.tsv")
"""File names of the table of a folder."""

FILE_COLUMNS = ("file_name", "file", "path", "utt", "utterance", "id")
"""Columns with the file name, in order of preference."""

SPEAKER_COLUMNS = ("speaker", "speaker_id", *LABEL_COLUMNS)
"""Columns with the speaker or else the class, in order of preference."""

SPLIT_COLUMN = "split"

ACTIONS_COLUMN = "actions"
"""Column with the actions at the frames of a clip, in the format of `parse_actions`."""


@final
class TableSource(Source):
    """Files listed in a table, one per row, optionally with speaker or class, split and actions.

    The first line names the columns, in upper or lower case. The file is in `file_name`, `file`, `path`,
    `utt`, `utterance` or `id`: a path relative to the table, or a file name with or without extension,
    anywhere below the table's folder. The label is in `speaker`, `speaker_id`, `label` or `class`. The
    column `actions` has the action at each frame of a clip ("forward*3 left"). A row whose file is missing is
    an unreadable item.

    Args:
        path: a .csv or .tsv file, or a folder with one table named as in `TABLE_NAMES`.
        extensions: of the files that may be named, such as ".wav".

    Raises:
        InputError: if the table is malformed or lists a file twice, or all its files are missing.
    """

    def __init__(self, path: Path, extensions: Sequence[str]) -> None:
        table = path if path.is_file() else _table_in(path, extensions)
        if table is None:
            raise InputError(
                f"expected a .csv or .tsv file, or a folder with one table called "
                f"{' or '.join(TABLE_NAMES)}, got {path}: name the table"
            )
        rows = _rows(table, has_actions=FRAMES_ENDING in extensions)
        files = _Files(table.parent, extensions)
        entries: list[Entry] = []
        outside: list[str] = []
        ambiguous: list[str] = []
        for name, label, split, actions in rows:
            named = files.named(name)
            if len(named) == 1:
                entries.append((split, Item(name, named[0], label, actions)))
            else:
                (ambiguous if named else outside).append(name)
        if not any(isinstance(item.content, Path) and item.content.is_file() for _, item in entries):
            raise InputError(
                f"expected files below {table.parent} that {table.name} names, found none of {len(rows):,}, "
                f"such as {rows[0][0]}: put the table into the folder of its files"
            )
        self._items, unsplit = by_split(entries)
        self.splits = ordered_splits(self._items)
        self._notes = [
            *ignored(outside, "row", "whose file lies outside the table's folder"),
            *ignored(ambiguous, "row", "whose name several files have"),
            *ignored(unsplit, "row", "without a split"),
        ]
        self.description = f"table {table} ({sizes_of(self._items, self.splits)})"

    @staticmethod
    def accepts(path: Path, extensions: Sequence[str]) -> bool:
        """Return True for a .csv or .tsv file, or a folder with one table named as in `TABLE_NAMES`."""
        if path.is_file():
            return path.suffix.lower() in DELIMITERS
        return path.is_dir() and _table_in(path, extensions) is not None

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return len(self._items[split])

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        yield from self._items[split]

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        return list(self._notes) if split == self.splits[0] else []


DELIMITERS = {".csv": ",", ".tsv": "\t"}

Row = tuple[str, str | None, str | None, tuple[str | None, ...] | None]
"""Name of the file, label, split, actions."""


def _table_in(folder: Path, extensions: Sequence[str]) -> Path | None:
    """The table of a folder, if there is exactly one and it has speakers, classes, splits or actions."""
    tables = [folder / name for name in TABLE_NAMES if (folder / name).is_file()]
    if len(tables) != 1:
        return None
    header, _ = _lines(tables[0])
    # A table of captions alone has nothing that is used here.
    useful = (*SPEAKER_COLUMNS, SPLIT_COLUMN, *((ACTIONS_COLUMN,) if FRAMES_ENDING in extensions else ()))
    return None if _first(useful, header) is None else tables[0]


def _rows(table: Path, has_actions: bool) -> list[Row]:
    """Rows of a table, in order; actions are read only if `has_actions`."""
    header, lines = _lines(table)
    file, label = _first(FILE_COLUMNS, header), _first(SPEAKER_COLUMNS, header)
    split = _first((SPLIT_COLUMN,), header)
    actions = _first((ACTIONS_COLUMN,), header) if has_actions else None
    if file is None:
        raise InputError(
            f"expected a column {', '.join(FILE_COLUMNS)} in {table}, got the columns {', '.join(header)}: "
            "write the columns' names into the first line"
        )
    rows = [
        (
            fields[file],
            None if label is None else class_name(fields[label] or None),
            None if split is None else split_name(fields[split]),
            _actions(fields[actions], fields[file], table) if actions is not None else None,
        )
        for fields in lines
    ]
    name, times = Counter(name for name, *_ in rows).most_common(1)[0]
    if times > 1:
        raise InputError(
            f"expected one row for each file in {table}, but {times} rows have {name!r} in the column "
            f"{header[file]}: keep one of them"
        )
    if not all(name for name, *_ in rows):
        raise InputError(
            f"expected the name of a file in each row of {table}, but one has none in the column "
            f"{header[file]}: complete or remove it"
        )
    return rows


def _actions(text: str, name: str, table: Path) -> tuple[str | None, ...] | None:
    """Actions of a row, or None if it has none."""
    if not text:
        return None
    try:
        return parse_actions(text)
    except InputError as error:
        raise InputError(f"the row of {name} in {table}: {error}") from None


def _lines(table: Path) -> tuple[list[str], list[list[str]]]:
    """Names of the columns in lower case, and the fields of each row."""
    delimiter = DELIMITERS.get(table.suffix.lower())
    if delimiter is None:
        raise InputError(f"expected a table that ends in .csv or .tsv, got {table}: convert or rename it")
    # Quotation marks in tab-separated tables are part of the text.
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    try:
        with table.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)
            numbered = [(reader.line_num, [field.strip() for field in row]) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"expected a table in UTF-8, but {table} cannot be read ({error}): save it as UTF-8 text with "
            f"{'commas' if delimiter == ',' else 'tabs'} between the columns"
        ) from error
    if len(numbered) < 2:
        raise InputError(f"expected a line of column names and rows in {table}, got {len(numbered)} lines")
    header = [field.lower() for field in numbered[0][1]]
    for number, row in numbered[1:]:
        if len(row) != len(header):
            raise InputError(
                f"expected {len(header)} fields in each line of {table}, as in its first, got {len(row)} in "
                f"line {number}: correct that line"
            )
    return header, [row for _, row in numbered[1:]]


def _first(wanted: Sequence[str], header: Sequence[str]) -> int | None:
    """Position of the first of the wanted columns that exists, or None."""
    return next((header.index(name) for name in wanted if name in header), None)


@final
class _Files:
    """Files that the rows of a table may name.

    Args:
        folder: of the table.
        extensions: of the files that may be named without their path.
    """

    def __init__(self, folder: Path, extensions: Sequence[str]) -> None:
        self._folder, self._extensions = folder, extensions

    def named(self, name: str) -> list[Path]:
        """Find the file of a row, by its path or else by its name.

        Returns:
            One path, even if the file is missing; several, if several files have this name; none, if the path
            leads out of the folder.
        """
        content = signal_content({"path": name}, self._folder)
        direct = [content] if isinstance(content, Path) else []
        if direct and direct[0].is_file():
            return direct
        return self._by_name.get(name) or direct

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Files below the folder by name and by stem; listed only if a path in a row does not exist."""
        named: dict[str, list[Path]] = {}
        for file in sorted(self._listed() | self._beside()):
            name = PurePosixPath(file)
            for key in {name.name, name.stem, str(name.with_suffix(""))}:
                named.setdefault(key, []).append(self._folder / file)
        return named

    def _listed(self) -> set[str]:
        try:
            folder = FolderSource(self._folder, self._extensions)
        except InputError:
            return set()
        return {item.name for split in folder.splits for item in folder.items(split)}

    def _beside(self) -> set[str]:
        """Files beside the table, which a source of folders train and test leaves out."""
        endings = normal_endings(self._extensions)
        return {file.name for file in self._folder.iterdir() if file.suffix.lower() in endings}
