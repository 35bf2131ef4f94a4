"""Tables of files, with the speaker or class, the split, and the actions of each."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple, final

from smalti.core.errors import InputError
from smalti.data.actions import parse_actions
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import (
    LABEL_COLUMNS,
    ordered_splits,
    require_split,
    signal_content,
)
from smalti.data.sources.delimited import Line, read_lines
from smalti.data.sources.folder import FRAMES_ENDING, FolderSource
from smalti.data.sources.listing import ignored, normal_endings
from smalti.data.sources.splits import Entry, by_split, sizes_of, split_name
from smalti.data.sources.walk import is_hidden, kind_of

TABLE_NAMES = ("metadata.csv", "metadata.tsv", "utts.tsv")
"""File names of the table of a folder."""

FILE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "path",
    "utt",
    "utterance",
    "id",
    "wav",
    "audio",
    "image",
    "video",
)
"""Columns with the file name, in order of preference."""

SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", *LABEL_COLUMNS)
"""Columns with the speaker or else the class, in order of preference."""

SPLIT_COLUMN = "split"

ACTIONS_COLUMN = "actions"
"""Column with the actions at the frames of a clip, in the format of `parse_actions`."""

COMMON_VOICE = {"train": "train", "dev": "validation", "test": "test"}
"""Tables of Common Voice, without their extension, and their splits; clips outside them are not used."""

CLIPS = "clips"
"""Folder of the recordings of Common Voice."""

SAMPLED_ROWS = 100
"""Number of rows from which the column of files is recognised."""

WORD = re.compile(r"[^\W\d][\w -]{0,39}")
"""Name of a column in a first line that is taken for a header."""


@final
class TableSource(Source):
    """Files listed in a table, one per row, optionally with speaker or class, split and actions.

    Commas, tabs, vertical bars or semicolons separate the columns. The first line names them, in upper or
    lower case. The file is in a column of `FILE_COLUMNS`, or without a header in the column whose fields name
    files: a path relative to the table, or a file name with or without extension, anywhere below the table's
    folder. The label is in a column of `SPEAKER_COLUMNS`. The column `actions` has the action at each frame
    of a clip ("forward*3 left"). A row whose file is missing is an unreadable item. The tables of Common
    Voice beside its folder `clips` are splits.

    Args:
        path: a .csv or .tsv file, or a folder with one table named as in `TABLE_NAMES`.
        extensions: of the files that may be named, such as ".wav".

    Raises:
        InputError: if the table is malformed or lists a file twice, or all its files are missing.
    """

    def __init__(self, path: Path, extensions: Sequence[str]) -> None:
        tables = _tables_in(path, extensions)
        if not tables:
            raise InputError(
                f"expected a .csv or .tsv file, or a folder with one table called "
                f"{' or '.join(TABLE_NAMES)}, got {path}: name the table"
            )
        folder = next(iter(tables)).parent
        files = _Files(folder, extensions)
        rows: list[Row] = []
        for table, of_table in tables.items():
            has_actions = FRAMES_ENDING in extensions
            rows += (row._replace(split=of_table or row.split) for row in _rows(table, files, has_actions))
        entries: list[Entry] = []
        outside: list[str] = []
        ambiguous: list[str] = []
        rows_by_file: dict[str, Row] = {}
        for row in rows:
            named = files.named(row.name)
            if len(named) == 1:
                file = os.path.abspath(named[0])
                first = rows_by_file.setdefault(file, row)
                if first is not row:
                    raise _listed_twice(file, first, row)
                entries.append((row.split, Item(row.name, named[0], row.label, row.actions)))
            else:
                (ambiguous if named else outside).append(row.name)
        # A folder of frames is one file.
        if not any(isinstance(item.content, Path) and item.content.exists() for _, item in entries):
            names = ", ".join(table.name for table in tables)
            raise InputError(
                f"expected files below {folder} that {names} names, found none of {len(rows):,}, "
                f"such as {rows[0].name}: put the table into the folder of its files"
            )
        self._items, unsplit = by_split(entries)
        self.splits = ordered_splits(self._items)
        self._notes = [
            *ignored(outside, "row", "whose file lies outside the table's folder"),
            *ignored(ambiguous, "row", "whose name several files have"),
            *ignored(unsplit, "row", "without a split"),
        ]
        where = path if len(tables) > 1 else next(iter(tables))
        self.description = f"table {where} ({sizes_of(self._items, self.splits)})"

    @staticmethod
    def accepts(path: Path, extensions: Sequence[str]) -> bool:
        """Return True for a .csv or .tsv file, or a folder with one table named as in `TABLE_NAMES`."""
        if path.is_file():
            return path.suffix.lower() in TABLE_ENDINGS
        return path.is_dir() and bool(_tables_in(path, extensions))

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return len(self._items[split])

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        yield from self._items[split]

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        return list(self._notes) if split == self.splits[0] else []


TABLE_ENDINGS = (".csv", ".tsv")

UNLABELLED = ("", "-1")
"""Labels of items without one; -1 marks those of unlabelled test splits."""


class Row(NamedTuple):
    """Row of a table, and where it is."""

    table: Path
    number: int
    name: str
    label: str | None
    split: str | None
    actions: tuple[str | None, ...] | None


def _tables_in(path: Path, extensions: Sequence[str]) -> dict[Path, str | None]:
    """The tables of a path, with the split that the name of a table states.

    A folder has one table called as in `TABLE_NAMES` with speakers, classes, splits or actions, or the
    tables of Common Voice beside its folder of clips.
    """
    if path.is_file():
        return {path: None} if path.suffix.lower() in TABLE_ENDINGS else {}
    tables = [path / name for name in TABLE_NAMES if (path / name).is_file()]
    if len(tables) == 1:
        first = read_lines(tables[0], FILE_COLUMNS)[:1]
        header = [name.lower() for line in first for name in line.fields]
        # A table of captions alone has nothing that is used here.
        useful = (*SPEAKER_COLUMNS, SPLIT_COLUMN, *((ACTIONS_COLUMN,) if FRAMES_ENDING in extensions else ()))
        return {} if _first(useful, header) is None else {tables[0]: None}
    if not (path / CLIPS).is_dir():
        return {}
    splits = {path / f"{name}.tsv": split for name, split in COMMON_VOICE.items()}
    found: dict[Path, str | None] = {
        table: split for table, split in splits.items() if _is_common_voice(table)
    }
    validated = path / "validated.tsv"
    return found or ({validated: None} if _is_common_voice(validated) else {})


def _is_common_voice(table: Path) -> bool:
    try:
        with table.open("rb") as file:
            return {b"client_id", b"path"} <= set(file.readline(1 << 16).strip().split(b"\t"))
    except OSError:
        return False


def _rows(table: Path, files: _Files, has_actions: bool) -> list[Row]:
    """Rows of a table, in order; actions are read only if `has_actions`."""
    lines = read_lines(table, FILE_COLUMNS)
    header, file, lines = _columns(table, lines, files)
    label, split = _first(SPEAKER_COLUMNS, header), _first((SPLIT_COLUMN,), header)
    actions = _first((ACTIONS_COLUMN,), header) if has_actions else None
    for number, fields in lines:
        if not fields[file]:
            raise InputError(
                f"expected the name of a file in each row of {table}, but line {number} has none in the "
                f"column {_title(header, file)}: complete or remove it"
            )
    return [
        Row(
            table,
            number,
            fields[file],
            None if label is None or fields[label] in UNLABELLED else fields[label],
            None if split is None else split_name(fields[split]),
            _actions(fields[actions], number, table) if actions is not None else None,
        )
        for number, fields in lines
    ]


def _listed_twice(file: str, first: Row, second: Row) -> InputError:
    if first.table == second.table:
        where = f"{first.table}, but lines {first.number} and {second.number} name"
    else:
        where = (
            f"all tables, but line {first.number} of {first.table} and line {second.number} of "
            f"{second.table.name} name"
        )
    name = os.path.relpath(file, first.table.parent)
    return InputError(f"expected one row for each file in {where} {name}: keep one of them")


def _columns(table: Path, lines: list[Line], files: _Files) -> tuple[list[str], int, list[Line]]:
    """Names of the columns in lower case, position of the files' column, and the rows.

    Without a known name in the first line, the files' column is the one whose fields name files. The first
    line is then still a header if it names none, and all its fields are short words, each different.
    """
    if not lines:
        raise InputError(f"expected a line of column names and rows in {table}, which is empty")
    header = [field.lower() for field in lines[0].fields]
    file = _first(FILE_COLUMNS, header)
    if file is None:
        sample = lines[1 : 1 + SAMPLED_ROWS] or lines
        hits = [sum(files.holds(fields[column]) for _, fields in sample) for column in range(len(header))]
        file = hits.index(max(hits))
        if 2 * hits[file] < len(sample):
            raise InputError(
                f"expected a column {', '.join(FILE_COLUMNS)} in {table}, or one that names files below "
                f"{table.parent}, got {', '.join(lines[0].fields)} in line {lines[0].number}: write the "
                "columns' names into the first line"
            )
        is_header = len(set(header)) == len(header) and all(map(WORD.fullmatch, header))
        if not is_header or files.holds(lines[0].fields[file]):
            return [], file, lines
    if len(lines) < 2:
        raise InputError(f"expected a line of column names and rows in {table}, got only the names")
    return header, file, lines[1:]


def _title(header: Sequence[str], column: int) -> str:
    return header[column] if header else str(column + 1)


def _actions(text: str, number: int, table: Path) -> tuple[str | None, ...] | None:
    """Actions of a row, or None if it has none."""
    if not text:
        return None
    try:
        return parse_actions(text)
    except InputError as error:
        raise InputError(f"line {number} of {table}: {error}") from None


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

        Separators, drives and case of Windows, and either form of accented letters, are understood.

        Returns:
            One path, even if the file is missing; several, if several files have this name; none, if the path
            leads out of the folder.
        """
        portable = name.replace("\\", "/")
        spellings = {name: None, portable: None}
        spellings |= {unicodedata.normalize(form, portable): None for form in ("NFC", "NFD")}
        direct = [path for path in map(self._direct, spellings) if path is not None]
        exact = next((path for path in direct if self._is_item(path)), None)
        if exact is not None:
            return [exact]
        if PureWindowsPath(name).drive:
            portable = PureWindowsPath(name).name
        key = unicodedata.normalize("NFC", portable)
        return self._by_name.get(key) or self._by_lower.get(key.lower()) or direct[:1]

    def _is_item(self, path: Path) -> bool:
        kind = kind_of(path)
        return kind == "file" or (kind == "folder" and path.name.lower().endswith(FRAMES_ENDING))

    def holds(self, name: str) -> bool:
        """Return True if a field names files that exist."""
        return bool(name) and any(kind_of(path) in ("file", "folder") for path in self.named(name))

    def _direct(self, name: str) -> Path | None:
        content = signal_content({"path": name}, self._folder)
        return content if isinstance(content, Path) else None

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Files below the folder by name and by stem; listed only if a path in a row does not exist."""
        named: dict[str, list[Path]] = {}
        for file in sorted(self._listed() | self._beside()):
            name = PurePosixPath(unicodedata.normalize("NFC", file))
            for key in {name.name, name.stem, str(name.with_suffix("")), str(name)}:
                named.setdefault(key, []).append(self._folder / file)
        return named

    @cached_property
    def _by_lower(self) -> dict[str, list[Path]]:
        """`_by_name` with the names in lower case."""
        named: dict[str, list[Path]] = {}
        for key, files in self._by_name.items():
            named.setdefault(key.lower(), []).extend(files)
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
        return {
            file.name
            for file in self._folder.iterdir()
            if file.suffix.lower() in endings and not is_hidden(file.name) and kind_of(file) == "file"
        }
