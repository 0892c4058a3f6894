"""A table of results on a terminal: as many columns as fit, the most important ones first."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bacl_platform.console import say
from bacl_platform.report.pages import Bold
from bacl_platform.report.result_table.best import best_first, find_best
from bacl_platform.report.result_table.columns import (
    Column,
    differences,
    field_columns,
    gain_columns,
    origin_columns,
)
from bacl_platform.report.result_table.files import after, before
from bacl_platform.report.result_table.points import EMPTY, bracket, number, spread
from bacl_platform.report.result_table.rows import ResultTable
from bacl_platform.report.result_table.statistics import interval
from bacl_platform.texts import one_line, shortened

if TYPE_CHECKING:
    from rich.console import Console

_NO_EDGE = 160
"""Letters in a line of a file or pipe, which has no edge."""
_GAP = 2
_FIELD_LETTERS = (40, 28, 20)
"""Most letters of a field's value, tried in turn until the columns that must be there fit."""
_LEAST_LABEL = 34
"""Least width of the column that holds all fields, where a column for each does not fit."""
_MOST_TEXT = 24
"""Most letters in a line of a state or another text."""
_MOST_LEFT_OUT = 8
"""Columns left out that are named; of more, only their number is."""
_MOST_ERRORS = 5
_MOST_ROWS = 60
"""Rows on a terminal; of more, the best. Files and pipes have all."""


@dataclass(frozen=True)
class _Ranked:
    """Columns that are shown together or not at all; those of a lower rank are kept longer."""

    rank: int
    columns: Sequence[Column]


def print_table(table: ResultTable, folder: Path, console: "Console") -> None:
    """Show the table, what is said of it, and where it was written."""
    room = _room(console)
    console.width = max(console.width, room)
    say(console, table.name)
    for sentence in before(table):
        say(console, sentence)
    if table.rows:
        short = console.is_terminal and len(table.rows) > _MOST_ROWS
        rows = best_first(table)[:_MOST_ROWS] if short else table.rows
        _print_columns(table, [table.rows.index(row) for row in rows], room, console)
        if short:
            without = sum(not row.found for row in table.rows)
            also = f" ({without} without a result)" if without else ""
            of = f"the best {_MOST_ROWS} of {len(table.rows)} rows{also}"
            say(console, f"{of}; the page has all")
    else:
        say(console, "no rows yet")
    if len(_seeds(table)) == 1 and max(_seeds(table)) > 1:
        say(console, f"{max(_seeds(table))} seeds each; points, mean ± standard deviation")
    for sentence in after(table):
        say(console, sentence)
    failed = [row for row in table.rows if row.error]
    for row in failed[:_MOST_ERRORS]:
        say(console, f"{row.label}: {one_line(row.error)}")
    if len(failed) > _MOST_ERRORS:
        say(console, f"{len(failed) - _MOST_ERRORS} more failed: the page says why")
    print_written(folder, console)


def print_written(folder: Path, console: "Console") -> None:
    """Say where the table is."""
    say(console, f"written: {folder}/table.html, .md, .tex, .csv, and pictures")


def _room(console: "Console") -> int:
    if console.is_terminal or "COLUMNS" in os.environ:
        return console.width
    return max(console.width, _NO_EDGE)


def _seeds(table: ResultTable) -> set[int]:
    """How many seeds rows have that have any."""
    return {row.seeds for row in table.rows if row.seeds}


def _ranked(table: ResultTable) -> list[_Ranked]:
    """What stands right of the fields, in the order in which it is shown."""
    origin = {column.name: column for column in origin_columns(table)}
    made = []
    if len(_seeds(table)) > 1:
        made.append(_Ranked(1, [origin["seeds"]]))
    if "features" in origin:
        made.append(_Ranked(0, [_below(origin["features"])]))
    if "evaluated with" in origin:
        made.append(_Ranked(5, [origin["evaluated with"]]))
    metric, *groups = table.family
    made.append(_Ranked(0, [_of_metric(table, metric, deviations=True)]))
    made += [_Ranked(3, [column]) for column in _interval(table, metric)]
    made.append(_Ranked(1, _beside(table, metric)))
    made.append(_Ranked(2, [_of_metric(table, group) for group in groups]))
    if table.paper is not None and table.paper.unlike:
        made.append(_Ranked(4, [c for group in groups for c in _beside(table, group)]))
    else:
        made += [_Ranked(4, _beside(table, group)) for group in groups]
    others = [name for name in table.ordered if name not in table.family]
    made += [_Ranked(6 + n, [_of_metric(table, name)]) for n, name in enumerate(others)]
    if any(row.state not in ("done", EMPTY) or row.ended for row in table.rows):
        cells = [
            ", ".join(f"{path}={value}" for path, value in row.ended.items()) or row.state
            for row in table.rows
        ]
        name = "ended with" if any(row.ended for row in table.rows) else "state"
        made.append(_Ranked(0, [Column(name, cells, "text")]))
    filled = [replace(one, columns=[c for c in one.columns if c.filled]) for one in made]
    return [one for one in filled if one.columns]


def _of_metric(table: ResultTable, metric: str, deviations: bool = False) -> Column:
    """A metric's means; of a sweep that screens, exact points below replayed ones. The best is
    marked with a star."""
    best = find_best(table) if metric == table.metric else None
    if best is not None and best.next is None:
        best = None
    cells = []
    for row in table.rows:
        lines = [_mean(list(row.found.get(metric, {}).values()), deviations)]
        if exact := list(row.exact.get(metric, {}).values()):
            lines.append(_mean(exact, deviations))
        if best is None:
            cells.append("\n".join(lines))
            continue
        marks = [" "] * len(lines)  # so that digits stay below each other
        if row is best.row:
            marks[-1 if best.exact else 0] = "*"
        cell = "\n".join(line + mark for line, mark in zip(lines, marks, strict=True))
        cells.append(Bold(cell) if row is best.row else cell)
    return Column(metric, cells)


def _mean(values: Sequence[float], deviations: bool) -> str:
    return spread(values, short=not deviations).partition(" [")[0]


def _interval(table: ResultTable, metric: str) -> list[Column]:
    """The interval of each row's mean over seeds."""
    bounds = [interval(list(table.compared(r).get(metric, {}).values())) for r in table.rows]
    cells = ["" if b is None else bracket(b) for b in bounds]
    return [Column(f"{metric} 95%", cells)]


def _beside(table: ResultTable, metric: str) -> list[Column]:
    """The paper's points and the difference to them, or our gain and the paper's."""
    if table.paper is None:
        return []
    if table.paper.unlike:
        return gain_columns(table, metric, short=True)
    theirs = Column(f"paper's {metric}", [number(row.paper.get(metric)) for row in table.rows])
    return [theirs, Column(f"{metric} difference", differences(table, metric))]


def _below(features: Column) -> Column:
    """A screened row's two kinds, below each other like its points."""
    return replace(features, cells=[cell.replace(", ", "\n") for cell in features.cells])


# What fits


@dataclass(frozen=True)
class _Sized:
    """A column with its width in letters."""

    column: Column
    width: int


def _sized(column: Column) -> _Sized:
    """A name may take several lines, a number only one; other texts break between words."""
    longest = max((len(line) for cell in column.cells for line in cell.split("\n")), default=0)
    if column.kind == "text":
        word = max((len(word) for cell in column.cells for word in cell.split()), default=0)
        longest = min(longest, max(_MOST_TEXT, min(word, 4 * _MOST_TEXT // 3)))
    return _Sized(column, max([longest, *map(len, column.name.split())]))


def _needed(columns: Sequence[_Sized]) -> int:
    return sum(one.width + _GAP for one in columns)


def _print_columns(
    table: ResultTable, places: Sequence[int], room: int, console: "Console"
) -> None:
    """Show rows of the table, by their places in it, in columns that fit into so many letters."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    ranked = [
        replace(one, columns=[_rows_of(column, places) for column in one.columns])
        for one in _ranked(table)
    ]
    least = [_sized(column) for one in ranked if one.rank == 0 for column in one.columns]
    more = [_sized(column) for one in ranked if 0 < one.rank <= 2 for column in one.columns]
    fields = _fields(table, places, room + _GAP - _needed(least), _needed(more))
    kept = _kept(ranked, room + _GAP - _needed(fields))
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    placed = [*fields, *(_sized(column) for one in kept for column in one.columns)]
    for one in placed:
        shown.add_column(
            Text(one.column.name),
            justify="right" if one.column.kind == "number" else "left",
            width=one.width,
            overflow="ellipsis",
        )
    for cells in zip(*(one.column.cells for one in placed), strict=True):
        shown.add_row(
            *(Text(cell, style="bold" if isinstance(cell, Bold) else "") for cell in cells)
        )
    console.print(shown)
    if out := [column.name for one in ranked if one not in kept for column in one.columns]:
        names = f": {', '.join(out)}" if len(out) <= _MOST_LEFT_OUT else ""
        say(console, f"the page has {len(out)} more columns{names}")


def _rows_of(column: Column, places: Sequence[int]) -> Column:
    return replace(column, cells=[column.cells[place] for place in places])


def _kept(ranked: Sequence[_Ranked], room: int) -> list[_Ranked]:
    """What fits, in the order in which it is shown."""
    chosen = set()
    for place in sorted(range(len(ranked)), key=lambda place: ranked[place].rank):
        needed = _needed(list(map(_sized, ranked[place].columns)))
        if ranked[place].rank > 0 and needed > room:
            break
        room -= needed
        chosen.add(place)
    return [one for place, one in enumerate(ranked) if place in chosen]


def _fields(table: ResultTable, places: Sequence[int], room: int, wanted: int) -> list[_Sized]:
    """The fields as columns, with long names and values cut in their middle where they must; else
    all of a row's fields in one column, which breaks between words.

    wanted: room that other columns would like, which that one column leaves to them if it can.
    """
    columns = [_rows_of(column, places) for column in field_columns(table)]
    for letters in _FIELD_LETTERS:
        cut = [
            Column(shortened(c.name, letters), [shortened(v, letters) for v in c.cells], "field")
            for c in columns
        ]
        sized = list(map(_sized, cut))
        if _needed(sized) <= room:
            return sized
    labels = [one_line(table.rows[place].label) for place in places]
    width = max(min(_LEAST_LABEL, room - _GAP), room - _GAP - wanted)
    return [_Sized(Column("trial", labels, "field"), min(width, max(map(len, labels))))]
