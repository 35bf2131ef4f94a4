"""Tables of files: who speaks, which class a file is of, of which split, and what is done in a clip."""

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
"""What the table of a folder is called."""

FILE_COLUMNS = ("file_name", "file", "path", "utt", "utterance", "id")
"""Columns that name the file, most likely first."""

SPEAKER_COLUMNS = ("speaker", "speaker_id", *LABEL_COLUMNS)
"""Columns that name the speaker, or else the class, most likely first."""

SPLIT_COLUMN = "split"

ACTIONS_COLUMN = "actions"
"""Of clips: what is done at each frame, as `parse_actions` reads it."""


@final
class TableSource(Source):
    """The files that a table lists: one a row, with perhaps its speaker or class, and its split.

    The first line names the columns; case does not matter. The file is `file_name`, `file`, `path`, `utt`,
    `utterance` or `id`: a path relative to the table, or a file's name, with its ending or without, anywhere
    below the table's folder. The label is `speaker`, `speaker_id`, `label` or `class`. A column `actions`
    says what is done at each frame of a clip ("forward*3 left"). A row whose file is missing is an unreadable
    item.

    Args:
        path: a .csv or .tsv file, or a folder that holds one table called as in `TABLE_NAMES`.
        extensions: endings of the files that names are looked for among, such as ".wav".

    Raises:
        InputError: when the table is malformed, names a file twice, or all its files are missing.
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
        """Whether this is a .csv or .tsv file, or a folder that holds one table of the `TABLE_NAMES`."""
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
    """The one table of a folder that tells speakers, classes or splits; None where there is no one such."""
    tables = [folder / name for name in TABLE_NAMES if (folder / name).is_file()]
    if len(tables) != 1:
        return None
    header, _ = _lines(tables[0])
    # A table of captions says nothing that folders do not say better.
    told = (*SPEAKER_COLUMNS, SPLIT_COLUMN, *((ACTIONS_COLUMN,) if FRAMES_ENDING in extensions else ()))
    return None if _first(told, header) is None else tables[0]


def _rows(table: Path, has_actions: bool) -> list[Row]:
    """The rows of a table, in its order; only of clips are actions looked for."""
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
    """The actions of a row, or None where there are none."""
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
    # Sentences in tab-separated tables have quotation marks of their own.
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
    """Which column is called by the first of the wanted names that there is."""
    return next((header.index(name) for name in wanted if name in header), None)


@final
class _Files:
    """The files that the rows of a table may name.

    Args:
        folder: the table's.
        extensions: endings of the files that are looked for by their names alone.
    """

    def __init__(self, folder: Path, extensions: Sequence[str]) -> None:
        self._folder, self._extensions = folder, extensions

    def named(self, name: str) -> list[Path]:
        """The file that a row names, by its path or else by its name alone.

        Returns:
            One path, of no file when it is missing; several, when several files are called so; none, when the
            path leads out of the folder.
        """
        content = signal_content({"path": name}, self._folder)
        direct = [content] if isinstance(content, Path) else []
        if direct and direct[0].is_file():
            return direct
        return self._by_name.get(name) or direct

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Files below the folder by name and by stem; listed when a row's path leads to no file."""
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
        """The files beside the table, which a source of folders called train and test leaves out."""
        endings = normal_endings(self._extensions)
        return {file.name for file in self._folder.iterdir() if file.suffix.lower() in endings}
