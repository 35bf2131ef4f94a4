"""Corpora of speech: who speaks, and of which split a file is, by its path or by a table."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import final

from smalti.data.actions import parse_actions
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import (
    LABEL_COLUMNS,
    SPLIT_NAMES,
    class_name,
    ordered_splits,
    require_split,
    signal_content,
)
from smalti.data.sources.folder import FRAMES_ENDING, FolderSource
from smalti.data.sources.listing import ignored, normal_endings
from smalti.interfaces import InputError

CORPUS_SPLITS = {**SPLIT_NAMES, "dev": "validation", "eval": "test"}
"""What a split of a corpus of speech is called -> what it is called here; other names are kept."""

ACCEPTED_SHARE = 0.9
"""Of the files of a folder that must lie as a corpus's do."""

TABLE_NAMES = ("metadata.csv", "metadata.tsv", "utts.tsv")
"""What the table of a folder is called."""

FILE_COLUMNS = ("file_name", "file", "path", "utt", "utterance", "id")
"""Columns that name the file, most likely first."""

SPEAKER_COLUMNS = ("speaker", "speaker_id", *LABEL_COLUMNS)
"""Columns that name the speaker, or else the class, most likely first."""

SPLIT_COLUMN = "split"

ACTIONS_COLUMN = "actions"
"""Of clips: what is done at each frame, as `parse_actions` reads it."""


def _split_group(match: re.Match[str]) -> str | None:
    """The split that the pattern's own group states."""
    return match.groupdict().get("split")


def _split_of_digits(match: re.Match[str]) -> str:
    """Takes 0 to 4 are the test split (README of the Free Spoken Digit Dataset, "Usage")."""
    return "test" if int(match["take"]) < 5 else "train"


@dataclass(frozen=True)
class Layout:
    """How a corpus names its files.

    Attributes:
        title: what the corpus is called.
        pattern: searched for in the path of a file; its group `speaker` (or `label`) is the speaker. Where a
            group `copy` takes part, the file is a second recording of another one and is left out.
        split_of: the split that a match states, or None.
    """

    title: str
    pattern: re.Pattern[str]
    split_of: Callable[[re.Match[str]], str | None] = _split_group


LAYOUTS = (
    Layout(
        "LibriSpeech",
        re.compile(
            r"(?:^|/)(?:(?P<split>train|dev|test)-(?:clean|other)(?:-\d+)?/)?"
            r"(?P<speaker>\d+)/(?P<chapter>\d+)/(?P=speaker)[-_](?P=chapter)[-_][\d_]+\.(?:flac|wav)$"
        ),
    ),
    Layout(
        "VCTK",
        re.compile(r"(?:^|/)(?P<speaker>[ps]\d+)/(?P=speaker)_\d+(?:_mic1|(?P<copy>_mic2))?\.(?:wav|flac)$"),
    ),
    Layout(
        "Free Spoken Digit Dataset",
        re.compile(r"(?:^|/)\d_(?P<speaker>[A-Za-z]+)_(?P<take>\d+)\.(?:wav|flac)$"),
        _split_of_digits,
    ),
)
"""LibriSpeech (LibriTTS also), VCTK (of two microphones the first), and the Free Spoken Digit Dataset."""


@final
class SpeechSource(Source):
    """The files below a folder, whose paths tell the speaker, the label, and perhaps the split.

    Args:
        path: a folder, or one file.
        extensions: endings of the wanted files, such as ".wav"; case does not matter.
        pattern: a regular expression with a group `speaker` (or `label`) and perhaps a group `split`, which
            is searched for in each path below the folder ("/" between its parts); None takes the layout of
            a known corpus. A file whose split it does not state is of that of its top-level folder, if
            `FolderSource` takes those for splits.

    Raises:
        InputError: when there is no wanted file, the pattern is none, or no file matches it.
    """

    def __init__(self, path: Path, extensions: Sequence[str], pattern: str | None = None) -> None:
        folder = FolderSource(path, extensions)
        layout = Layout("folder", _compiled(pattern)) if pattern else _layout(folder)
        if layout is None:
            raise InputError(
                f"expected the files of {', '.join(known.title for known in LAYOUTS)} below {path}, found "
                "others: give a pattern that tells the speaker, such as (?P<speaker>[^/]+)/"
            )
        entries, unlike, copies = _matched(folder, layout)
        if not entries:
            raise InputError(
                f"expected files below {path} whose paths match {layout.pattern.pattern}, found only others, "
                f"such as {(unlike or copies)[0]}: correct the pattern"
            )
        self._items, unsplit = _by_split(entries)
        self.splits = ordered_splits(self._items)
        self._notes = [
            *(note for split in folder.splits for note in folder.notes(split)),
            *ignored(unlike, "file", "whose path does not match"),
            *ignored(copies, "file", "of a second microphone"),
            *ignored(unsplit, "file", "whose path states no split"),
        ]
        how = f" by the pattern {pattern}" if pattern else ""
        self.description = f"{layout.title} {path}{how} ({_sizes(self._items, self.splits)})"

    @staticmethod
    def accepts(path: Path, extensions: Sequence[str]) -> bool:
        """Whether this is a folder of which nine files in ten lie as those of one known corpus do."""
        if not path.is_dir():
            return False
        try:
            return _layout(FolderSource(path, extensions)) is not None
        except InputError:
            return False

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return len(self._items[split])

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        yield from self._items[split]

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        # What belongs to no split is told once, with the first of them.
        return list(self._notes) if split == self.splits[0] else []


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
        table = path if path.is_file() else _table_in(path)
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
        self._items, unsplit = _by_split(entries)
        self.splits = ordered_splits(self._items)
        self._notes = [
            *ignored(outside, "row", "whose file lies outside the table's folder"),
            *ignored(ambiguous, "row", "whose name several files have"),
            *ignored(unsplit, "row", "without a split"),
        ]
        self.description = f"table {table} ({_sizes(self._items, self.splits)})"

    @staticmethod
    def accepts(path: Path) -> bool:
        """Whether this is a .csv or .tsv file, or a folder that holds one table of the `TABLE_NAMES`."""
        if path.is_file():
            return path.suffix.lower() in DELIMITERS
        return path.is_dir() and _table_in(path) is not None

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return len(self._items[split])

    def items(self, split: str) -> Iterator[Item]:
        require_split(split, self.splits, self.description)
        yield from self._items[split]

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        return list(self._notes) if split == self.splits[0] else []


Entry = tuple[str | None, Item]
"""An item with its split, which None leaves open."""


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"expected a regular expression, got {pattern}: {error}; correct it") from error
    if not {"speaker", "label"} & set(compiled.groupindex):
        raise InputError(
            f"expected a pattern with a group (?P<speaker>...) or (?P<label>...), got {pattern}: name the "
            "group that tells the speaker"
        )
    return compiled


def _layout(folder: FolderSource) -> Layout | None:
    """The known layout that most files have, if nearly all of them have it."""
    names = [item.name for split in folder.splits for item in folder.items(split)]
    matching = {layout.title: sum(bool(layout.pattern.search(name)) for name in names) for layout in LAYOUTS}
    best = max(LAYOUTS, key=lambda layout: matching[layout.title])
    return best if matching[best.title] >= ACCEPTED_SHARE * len(names) else None


def _matched(folder: FolderSource, layout: Layout) -> tuple[list[Entry], list[str], list[str]]:
    """Items with their splits, the files that do not match, and the copies."""
    entries: list[Entry] = []
    unlike: list[str] = []
    copies: list[str] = []
    for above, item in ((split, item) for split in folder.splits for item in folder.items(split)):
        match = layout.pattern.search(item.name)
        groups = match.groupdict() if match else {}
        if match is None:
            unlike.append(item.name)
        elif groups.get("copy"):
            copies.append(item.name)
        else:
            stated = layout.split_of(match) or (None if above == "all" else above)
            label = groups.get("speaker") or groups.get("label")
            entries.append((_split_name(stated), Item(item.name, item.content, label)))
    return entries, unlike, copies


def _split_name(text: str | None) -> str | None:
    return CORPUS_SPLITS.get(text.lower(), text) if text else None


def _by_split(entries: Iterable[Entry]) -> tuple[dict[str, list[Item]], list[str]]:
    """Items by split, and the names of those that state none where others do."""
    groups: dict[str | None, list[Item]] = {}
    for split, item in entries:
        groups.setdefault(split, []).append(item)
    unsplit = groups.pop(None, [])
    named = {split: items for split, items in groups.items() if split is not None}
    return (named, [item.name for item in unsplit]) if named else ({"all": unsplit}, [])


def _sizes(items: dict[str, list[Item]], splits: Sequence[str]) -> str:
    return ", ".join(f"{name} {len(items[name]):,}" for name in splits)


DELIMITERS = {".csv": ",", ".tsv": "\t"}

Row = tuple[str, str | None, str | None, tuple[str | None, ...] | None]
"""Name of the file, label, split, actions."""


def _table_in(folder: Path) -> Path | None:
    """The one table of a folder that tells speakers, classes or splits; None where there is no one such."""
    tables = [folder / name for name in TABLE_NAMES if (folder / name).is_file()]
    if len(tables) != 1:
        return None
    header, _ = _lines(tables[0])
    # A table of captions says nothing that folders do not say better.
    told = (*SPEAKER_COLUMNS, SPLIT_COLUMN, ACTIONS_COLUMN)
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
            None if split is None else _split_name(fields[split]),
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
