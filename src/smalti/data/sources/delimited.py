"""Text tables whose separator is recognised from their content."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from smalti.core.errors import InputError

SEPARATORS = {",": "commas", "\t": "tabs", "|": "vertical bars", ";": "semicolons"}
"""Characters between the columns of a table, and their names."""

PREFERRED = {".tsv": "\t", ".csv": ","}
"""Separator that the extension of a table suggests."""

QUOTED = (",", ";")
"""Separators of tables in which quotation marks enclose text; in others they are part of the text."""

STATED = re.compile(r'"?sep=([,\t|;])"?(?=\r?\n)')
"""First line by which spreadsheets state the separator; its end is kept, so that lines keep their numbers."""

SAMPLED_LINES = 100
"""Number of lines from which the separator is recognised."""

MOST_BYTES = 1 << 30
"""Size limit of a table."""


class Line(NamedTuple):
    """Fields of a row, and the number of its last line in the file, from 1."""

    number: int
    fields: list[str]


def read_lines(table: Path, known: Collection[str]) -> list[Line]:
    """Read the lines of a table that are not empty, each with the same number of fields.

    The separator is the one that a first line such as "sep=;" states; else the one at which the first line
    has one of the known column names; else the one that gives most of the first lines the same number of
    fields; else the one of the extension.

    Args:
        table: the file, UTF-8.
        known: names of columns, in lower case.

    Raises:
        InputError: if it is not such a table; the message names the line.
    """
    text = _text(table)
    stated = STATED.match(text)
    if stated is not None:
        text, separator = text[stated.end() :], stated[1]
    else:
        separator = _separator(text, PREFERRED.get(table.suffix.lower(), ","), known)
    lines = list(_parsed(text, separator, table))
    for number, fields in lines:
        if len(fields) != len(lines[0].fields):
            raise InputError(
                f"expected as many fields between {SEPARATORS[separator]} in each line of {table} as in its "
                f"first ({len(lines[0].fields)}), got {len(fields)} in line {number}: correct that line"
            )
    return lines


def _text(table: Path) -> str:
    try:
        if table.stat().st_size > MOST_BYTES:
            raise InputError(f"expected a table of at most {MOST_BYTES:,} bytes, got {table}: split it")
        return table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"expected a table in UTF-8, but line {number} of {table} is not: save it as UTF-8 text"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"expected a table, but {table} cannot be read ({error}): check the path") from error


def _reader(text: str, separator: str) -> Iterator[list[str]]:
    quoting = csv.QUOTE_MINIMAL if separator in QUOTED else csv.QUOTE_NONE
    # Without newline="", a reader would take a carriage return inside quotation marks for a new line.
    return csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        quoting=quoting,
        # Otherwise, quotation marks after a comma and a space would be part of the text.
        skipinitialspace=separator in QUOTED,
        strict=True,
    )


def _parsed(text: str, separator: str, table: Path) -> Iterator[Line]:
    reader = _reader(text, separator)
    number = 0
    try:
        for row in reader:
            number = reader.line_num  # pyright: ignore[reportAttributeAccessIssue]
            if row:
                yield Line(number, [field.strip() for field in row])
    except csv.Error as error:
        raise InputError(
            f"expected a table with {SEPARATORS[separator]} between the columns, but {table} cannot be "
            f"read after line {number} ({error}): correct the next line"
        ) from error


def _separator(text: str, preferred: str, known: Collection[str]) -> str:
    candidates = [preferred, *(separator for separator in SEPARATORS if separator != preferred)]
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    for separator in candidates:
        try:
            names = {field.strip().lower() for field in next(_reader(first, separator), [])}
        except csv.Error:
            continue
        if names & set(known):
            return separator
    lines = list(islice((line for line in io.StringIO(text) if line.strip()), SAMPLED_LINES))
    return max(candidates, key=lambda separator: _agreement(lines, separator))


def _agreement(lines: list[str], separator: str) -> int:
    """Return the number of lines with the most frequent number of fields, if it is more than one."""
    widths: Counter[int] = Counter()
    for line in lines:
        try:
            widths[len(next(_reader(line, separator), []))] += 1
        except csv.Error:
            continue
    width, times = max(widths.items(), key=lambda entry: entry[1], default=(0, 0))
    return times if width > 1 else 0
