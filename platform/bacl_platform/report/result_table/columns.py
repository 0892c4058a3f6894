"""The columns of a table of results as text: all of them, for pages and files."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from bacl_platform.report.pages import Bold
from bacl_platform.report.result_table.best import Best, find_best
from bacl_platform.report.result_table.gains import first_row, gains, papers_gain
from bacl_platform.report.result_table.points import EMPTY, number, spread
from bacl_platform.report.result_table.rows import ResultTable, Row


@dataclass(frozen=True)
class Column:
    """A column: its name and a cell for each row. kind: what its cells hold."""

    name: str
    cells: Sequence[str]
    kind: Literal["field", "text", "number"] = "number"

    @property
    def filled(self) -> bool:
        """Whether any cell says something."""
        return any(cell not in ("", EMPTY) for cell in self.cells)


def columns(table: ResultTable) -> list[Column]:
    """All columns that some row fills; the best row's cells of the ranking metric are `Bold`."""
    made = [*field_columns(table), *origin_columns(table)]
    for metric in table.ordered:
        made += [column for column in metric_columns(table, metric) if column.filled]
    return [*made, Column("state", [_state(row) for row in table.rows], "text")]


def field_columns(table: ResultTable) -> list[Column]:
    """The values of rows, a column for each field."""
    return [
        Column(field, [row.varied.get(field, "") for row in table.rows], "field")
        for field in table.fields
    ]


def origin_columns(table: ResultTable) -> list[Column]:
    """How many seeds a row has, and, where rows say so, how they came about."""
    made = [Column("seeds", [str(row.seeds) for row in table.rows])]
    if table.marked:
        kinds = [[row.features or EMPTY, *(["exact"] if row.exact else [])] for row in table.rows]
        made.append(Column("features", list(map(", ".join, kinds)), "text"))
    if table.unlike:
        cells = [row.evaluated_with or EMPTY for row in table.rows]
        made.append(Column("evaluated with", cells, "text"))
    return made


def metric_columns(table: ResultTable, metric: str) -> list[Column]:
    """A metric's points, and what of the paper's they are beside.

    On the paper's data set that is its points and the difference; on another, gains over the first
    row of its table, ours and the paper's, and its points.
    """
    found = [spread(list(row.found.get(metric, {}).values())) for row in table.rows]
    best = find_best(table) if metric == table.metric else None
    if table.screened:
        exact = [spread(list(row.exact.get(metric, {}).values())) for row in table.rows]
        exact = _marked(exact, table, best if best and best.exact else None)
        found = _marked(found, table, None if best and best.exact else best)
        made = [Column(f"{metric} replayed", found), Column(f"{metric} exact", exact)]
    else:
        made = [Column(metric, _marked(found, table, best))]
    if table.paper is None:
        return made
    theirs = Column(f"paper's {metric}", [number(row.paper.get(metric)) for row in table.rows])
    if not theirs.filled:
        return made
    if not table.paper.unlike:
        return [*made, theirs, Column(f"{metric} difference", differences(table, metric))]
    return [*made, *gain_columns(table, metric), theirs]


def gain_columns(table: ResultTable, metric: str, short: bool = False) -> list[Column]:
    """Our gains over the first row and the paper's. short: means alone, without deviations."""
    first = first_row(table)
    ours = []
    for row in table.rows:
        own = gains(table, row, metric, first)
        ours.append(spread(own[:1] if row is first else own, "+", short=short))
    theirs = [number(papers_gain(row, metric, first), "+") for row in table.rows]
    return [Column(f"{metric} gain", ours), Column(f"paper's {metric} gain", theirs)]


def differences(table: ResultTable, metric: str) -> list[str]:
    """The mean over seeds less the paper's points, of each row."""
    made = []
    for row in table.rows:
        own, theirs = table.compared(row).get(metric, {}), row.paper.get(metric)
        value = mean(own.values()) - theirs if own and theirs is not None else None
        made.append(number(value, "+"))
    return made


def _marked(cells: list[str], table: ResultTable, best: Best | None) -> list[str]:
    """Cells of which the best row's stands out, where there are others."""
    if best is None or best.next is None:
        return cells
    return [
        Bold(cell) if row is best.row else cell for cell, row in zip(cells, table.rows, strict=True)
    ]


def _state(row: Row) -> str:
    changed = ", ".join(f"{path}={value}" for path, value in row.ended.items())
    return row.error or (f"ended with {changed}" if changed else row.state)
