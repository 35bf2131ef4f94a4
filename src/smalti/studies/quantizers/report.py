"""Results of a comparison: two tables on the screen and in Markdown, a plot, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from smalti.app.console import note
from smalti.app.pages.page import inline, write_page
from smalti.core.files import atomic_file
from smalti.studies.quantizers import search
from smalti.studies.quantizers.experiment import Column, Experiment
from smalti.studies.quantizers.figures import rate_distortion
from smalti.studies.quantizers.significance import indistinguishable, mean, short_name, values_of
from smalti.studies.records import Record, by, markdown, standard_error

WIDTH = 100
"""Columns of the screen that the tables need at most."""
MARK = "*"
TITLES = ("Rate and distortion", "Use of the codes, and cost")

Cells = tuple[list[str], list[list[str]]]
"""Header and rows of a table."""


def write_report(
    out: Path,
    records: Sequence[Record],
    experiment: Experiment,
    pictures: Mapping[str, Path | None],
    failed: Mapping[str, str],
    quiet: bool,
) -> None:
    """Write table.md, rate_distortion.png and index.html, and print the tables unless quiet.

    Args:
        out: directory.
        records: of all finished units.
        experiment: columns, caption and references.
        pictures: reconstructions of each entry.
        failed: errors by title.
        quiet: print nothing.
    """
    if not records:
        return
    tables = tables_of(records, experiment.columns())
    sentences = [experiment.caption(), note_on_marks(records)]
    sentences += [f"Failed: {title}: {reason}" for title, reason in failed.items()]
    text = "\n\n".join([*sentences, *(markdown(*table) for table in tables)])
    with atomic_file(out / "table.md") as temporary:
        temporary.write_text(text)
    figure = out / "rate_distortion.png"
    curves = experiment.curves(sorted({record["bits"] for record in records}))
    rate_distortion(records, curves, figure)
    write_page(
        out / "index.html",
        "compare.html.j2",
        package="smalti.studies.quantizers",
        sentences=sentences,
        tables=[(title, *table) for title, table in zip(TITLES, tables, strict=True)],
        figure=figure,
        pictures=[(title, inline(path)) for title, path in pictures.items() if path is not None],
    )
    if not quiet:
        console = Console(width=WIDTH)
        for title, table in zip(TITLES, tables, strict=True):
            console.print(on_screen(title, table))
            console.print()
        for sentence in sentences:
            console.print(escape(sentence))
    note(f"The runs, records.jsonl, table.md and index.html are in {out}.", quiet)


def tables_of(records: Sequence[Record], columns: tuple[Sequence[Column], Sequence[Column]]) -> list[Cells]:
    """Table of results, and table of code use and cost with the chosen loss weights."""
    results, use = (cells(records, each) for each in columns)
    return [results, with_weights(use, records)]


def overview(records: Sequence[Record], column: Column, titles: Mapping[str, str]) -> Cells:
    """Table of one figure: a row per quantizer, a column per data set and rate.

    Args:
        records: of quantizers given by name, with data sets in "dataset".
        column: the figure.
        titles: data sets in the order of the columns, with their names in the header.
    """
    rows = {name: [name] for name in dict.fromkeys(map(short_name, records))}
    header = ["quantizer"]
    of_data = by(records, "dataset")
    for dataset, title in titles.items():
        for bits, group in sorted(by(of_data.get(dataset, []), "asked_bits").items()):
            header.append(f"{title}, {bits:g} bits")
            texts = dict(cells(group, [column])[1])
            found = {short_name(record): texts[record["entry"]] for record in group}
            for name, row in rows.items():
                row.append(found.get(name, "-"))
    return header, list(rows.values())


def cells(records: Sequence[Record], columns: Sequence[Column]) -> Cells:
    """Format one row per entry: means over seeds, with standard errors where wanted.

    A column without any value is left out.
    """
    shown = [column for column in columns if values_of_all(records, column.metric)]
    marked = {
        column.metric: indistinguishable(records, column.metric) if column.is_score else set()
        for column in shown
    }
    rows = []
    for entry, group in by(records, "entry").items():
        row = [entry]
        for column in shown:
            values = list(values_of(group, column.metric).values())
            mark = MARK if entry in marked[column.metric] else ""
            row.append(cell(values, column) + mark)
        rows.append(row)
    return ["quantizer", *(column.title for column in shown)], rows


def values_of_all(records: Sequence[Record], metric: str) -> list[float]:
    """Known values of a metric of all records."""
    return [value for record in records if (value := record["metrics"].get(metric)) is not None]


def cell(values: Sequence[float], column: Column) -> str:
    """Format the mean, and the standard error with as many decimals."""
    if not values:
        return "-"
    text = format(mean(values), column.form)
    error = standard_error(values)
    if not column.has_error or error is None:
        return text
    return f"{text} ± {format(error, column.form)}"


def with_weights(table: Cells, records: Sequence[Record]) -> Cells:
    """Add the chosen loss weights of each entry, if any has some."""
    header, rows = table
    chosen = {entry: search.described(group[0]["weights"]) for entry, group in by(records, "entry").items()}
    if not any(chosen.values()):
        return table
    return [*header, "loss weights"], [[*row, chosen[row[0]] or "-"] for row in rows]


def note_on_marks(records: Sequence[Record]) -> str:
    """Sentence on the marks and the standard errors."""
    num = len({record["seed"] for record in records})
    if num < 2:
        return f"{MARK} marks the best. With one seed, differences between quantizers are not tested."
    return (
        f"± is the standard error over {num} seeds. {MARK} marks the best at each rate, and those whose "
        "difference to it is within two standard errors (paired over seeds)."
    )


def on_screen(title: str, table: Cells) -> Table:
    """Lay out a table for a screen of `WIDTH` columns."""
    header, rows = table
    shown = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
    )
    for index, name in enumerate(header):
        is_text = index == 0 or name == "loss weights"
        # Figures stay on one line; long names are folded.
        title = name if is_text else name.replace(" ", "\n", 1)
        shown.add_column(title, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for row in rows:
        # Before the figures, so that those of a column stay below each other.
        moved = (f"{MARK} {text.removesuffix(MARK)}" if text.endswith(MARK) else text for text in row)
        shown.add_row(*(escape(text) for text in moved))
    return shown
