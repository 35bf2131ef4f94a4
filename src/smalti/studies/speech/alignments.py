"""Phone alignments, read from a table of tab-separated values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import final

import numpy as np

from smalti.core.errors import InputError

FRAMES_PER_SECOND = 100
"""Unit of the columns start_frame and end_frame: aligners count in steps of 10 ms."""

UTTERANCE_COLUMNS = ("utt", "utterance", "file")
"""Columns that name the utterance, in order of preference. Of a file, the stem of its path is the name."""

TIME_COLUMNS = (("start_frame", "end_frame"), ("start", "end"))
"""Pairs of columns with start and end times, in frames or in seconds."""


@dataclass(frozen=True)
class Segment:
    """A phone from `start` to `end` (exclusive), seconds."""

    start: float
    end: float
    phone: str


@final
class Alignments:
    """Phone segments of a set of utterances, in order of time.

    An utterance is looked up by its name in the table, or by any path with that stem: the item
    `train/fash/an251-fash-b.flac` is the utterance `an251-fash-b`.

    Args:
        segments: segments of each utterance, sorted and without overlap.
        speakers: speaker of each utterance, where known.
    """

    def __init__(
        self, segments: Mapping[str, Sequence[Segment]], speakers: Mapping[str, str] | None = None
    ) -> None:
        self._segments = {name: tuple(of_utterance) for name, of_utterance in segments.items()}
        self._speakers = dict(speakers or {})
        self.phones = tuple(sorted({s.phone for each in self._segments.values() for s in each}))
        """All phones, sorted; the id of a phone is its index here."""

    @staticmethod
    def read(path: str | Path) -> Alignments:
        """Read a tab-separated table: a header line, then one line per segment, in any order.

        Required columns: the utterance (`utt`, `utterance` or `file`), the time (`start_frame` and
        `end_frame` in whole frames of 10 ms, or `start` and `end` in seconds) and `phone`. The column
        `speaker` is optional; others are ignored. Time that no segment covers is unlabelled.

        Raises:
            InputError: with the line number, when a column or a value is missing, a time is not a number, a
                segment does not end after its start or overlaps another, or an utterance has two speakers
                or two files.
        """
        path = Path(path)
        table = _Table(path)
        for number, line in _lines(path):
            table.add(number, line)
        return table.finish()

    @property
    def utterances(self) -> tuple[str, ...]:
        """Names of the utterances, in the order of the table."""
        return tuple(self._segments)

    def __contains__(self, utterance: str) -> bool:
        return self._name(utterance) is not None

    def segments(self, utterance: str) -> tuple[Segment, ...]:
        """Return the segments of an utterance, in order of time.

        Raises:
            InputError: when there is no such utterance.
        """
        return self._segments[self._known(utterance)]

    def speaker(self, utterance: str) -> str | None:
        """Return the speaker of an utterance, or None if the table has none.

        Raises:
            InputError: when there is no such utterance.
        """
        return self._speakers.get(self._known(utterance))

    def labels_at(self, utterance: str, times_seconds: Sequence[float] | np.ndarray) -> list[str | None]:
        """Return the phone at each time, or None where no segment covers it.

        Args:
            utterance: name of the utterance, or a path with that stem.
            times_seconds: times from the start of the utterance, in any order.

        Raises:
            InputError: when there is no such utterance.
        """
        segments = self.segments(utterance)
        times = np.asarray(times_seconds, dtype=np.float64)
        after = np.searchsorted([segment.start for segment in segments], times, side="right")
        return [
            segments[index - 1].phone if index > 0 and time < segments[index - 1].end else None
            for index, time in zip(after.tolist(), times.tolist(), strict=True)
        ]

    def _name(self, utterance: str) -> str | None:
        stem = PurePath(utterance).stem
        return utterance if utterance in self._segments else stem if stem in self._segments else None

    def _known(self, utterance: str) -> str:
        name = self._name(utterance)
        if name is None:
            raise InputError(
                f"expected an alignment of {utterance!r}, found none among {len(self._segments):,} "
                "utterances: use a table with a row for each of its phones"
            )
        return name


@dataclass
class _Table:
    """A table during reading: segments and their line numbers, by utterance."""

    path: Path
    columns: list[str] = field(default_factory=list)
    rows: dict[str, list[tuple[Segment, int]]] = field(default_factory=dict)
    speakers: dict[str, tuple[str, int]] = field(default_factory=dict)
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    utterance_column: str = ""
    time_columns: tuple[str, str] = ("", "")

    def add(self, number: int, line: str) -> None:
        """Add the next non-empty line; the first one is the header."""
        values = [value.strip() for value in line.split("\t")]
        if not self.columns:
            self._take_header(number, values)
            return
        if len(values) != len(self.columns):
            self._refuse(number, f"expected {len(self.columns)} tab-separated values", f"{len(values)}")
        row = dict(zip(self.columns, values, strict=True))
        name = self._utterance(number, row)
        if not row["phone"]:
            self._refuse(number, "expected a phone", "nothing")
        start, end = (self._seconds(number, row, column) for column in self.time_columns)
        if end <= start:
            self._refuse(number, f"expected an end time after the start time, {start:g} s", f"{end:g} s")
        self.rows.setdefault(name, []).append((Segment(start, end, row["phone"]), number))
        if speaker := row.get("speaker"):
            self._once(self.speakers, number, name, speaker, "speaker")

    def finish(self) -> Alignments:
        """Return the alignments after the last line."""
        if not self.rows:
            raise InputError(
                f"expected a header line and one line per segment in {self.path}, found no segment: "
                "use a table of phone alignments"
            )
        segments = {}
        for name, rows in self.rows.items():
            rows.sort(key=lambda row: (row[0].start, row[1]))
            for (segment, line), (following, number) in itertools.pairwise(rows):
                if following.start < segment.end:
                    self._refuse(
                        number,
                        f"expected the segment of {name} to start at {segment.end:g} s, the end of the "
                        f"segment on line {line}, or later",
                        f"{following.start:g} s",
                    )
            segments[name] = [segment for segment, _ in rows]
        return Alignments(segments, {name: speaker for name, (speaker, _) in self.speakers.items()})

    def _take_header(self, number: int, columns: list[str]) -> None:
        if len(set(columns)) < len(columns):
            self._refuse(number, "expected each column once", ", ".join(columns))
        names = [name for name in UTTERANCE_COLUMNS if name in columns]
        times = [pair for pair in TIME_COLUMNS if set(pair) & set(columns)]
        if not names:
            self._refuse(number, f"expected a column {' or '.join(UTTERANCE_COLUMNS)}", ", ".join(columns))
        if "phone" not in columns:
            self._refuse(number, "expected a column phone", ", ".join(columns))
        if len(times) != 1 or not set(times[0]) <= set(columns):
            either = " or ".join(" and ".join(pair) for pair in TIME_COLUMNS)
            self._refuse(number, f"expected either the columns {either}", ", ".join(columns))
        self.columns, self.utterance_column, self.time_columns = columns, names[0], times[0]

    def _utterance(self, number: int, row: dict[str, str]) -> str:
        text = row[self.utterance_column]
        name = PurePath(text).stem if self.utterance_column == "file" else text
        if not name:
            self._refuse(number, f"expected a name in the column {self.utterance_column}", repr(text))
        self._once(self.files, number, name, text, "file")
        return name

    def _seconds(self, number: int, row: dict[str, str], column: str) -> float:
        text = row[column]
        in_frames = column.endswith("_frame")
        try:
            # Division rather than multiplication by 0.01, so that frame 35 is exactly 0.35.
            seconds = int(text) / FRAMES_PER_SECOND if in_frames else float(text)
        except ValueError:
            seconds = math.nan
        if not math.isfinite(seconds) or seconds < 0:
            expected = "a whole number of 10 ms frames" if in_frames else "a number of seconds"
            self._refuse(number, f"expected {expected}, 0 or more, in the column {column}", repr(text))
        return seconds

    def _once(self, known: dict[str, tuple[str, int]], number: int, name: str, value: str, key: str) -> None:
        """Record the value of an utterance, and refuse a second, different one."""
        first, line = known.setdefault(name, (value, number))
        if value != first:
            self._refuse(number, f"expected one {key} for {name}, {first} as on line {line}", value)

    def _refuse(self, number: int, expected: str, received: str) -> None:
        raise InputError(f"{self.path}, line {number}: {expected}, received {received}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines with their numbers, from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): use a tab-separated table of phone alignments"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text: use a tab-separated table of phone alignments"
        ) from error
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
