"""The fields that rows of a table differ in, as axes of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl_platform.report.plots.style import named
from bacl_platform.report.result_table.best import best_first, find_best
from bacl_platform.report.result_table.rows import ResultTable, Row
from bacl_platform.texts import shortened

STATES = {
    "failed": ("#D55E00", "x"),
    "stopped": ("#777777", "s"),
    "to run": ("#999999", "o"),
}
"""Colour and marker of rows without a result, by why they have none."""
ABSENT = "–"
"""The label of a field that a row does not have."""
PAPER = "#999999"
"""Colour of the paper's numbers."""
SCALE = "viridis"
"""Colours of points, from few to many."""
_MOST_LABELS = 12
"""Values of a field that an axis has room to name."""
_MOST_LETTERS = 46
"""Most letters of a row's label; of longer ones, values are cut in their middle."""
_LEAST_LETTERS = 10
"""Letters of a value that are left."""


@dataclass(frozen=True)
class Field:
    """A field that rows differ in.

    numeric: whether all values that are there are numbers. gaps: whether some rows have none, or
    null. labels: texts of the distinct values, numbers rising and others as they come.
    """

    name: str
    numeric: bool
    gaps: bool
    logarithmic: bool
    labels: Sequence[str]

    def places(self, rows: Sequence[Row]) -> NDArray[Any]:
        """The number of each row (N,) on a numeric axis; NaN where it has none."""
        return np.array([_number(row.values.get(self.name)) for row in rows])

    def ranks(self, rows: Sequence[Row]) -> list[int]:
        """The place of each row's value (N,) among the labels."""
        return [self.labels.index(row.varied.get(self.name, ABSENT)) for row in rows]


def fields(table: ResultTable) -> list[Field]:
    """The fields that rows differ in, in the order of the table's columns."""
    made = []
    for name in table.fields:
        values = {row.varied.get(name, ABSENT): row.values.get(name) for row in table.rows}
        if len(values) < 2:
            continue
        there = [value for value in values.values() if value is not None]
        numeric = len(there) > 1 and all(_is_number(value) for value in there)
        labels = sorted(values, key=lambda v: _number(values[v])) if numeric else list(values)
        labels.sort(key=lambda label: label != ABSENT)
        if numeric:
            labels.sort(key=lambda label: values[label] is not None)
        gaps = len(there) < len(values)
        logarithmic = numeric and name in table.logarithmic
        made.append(Field(name, numeric, gaps, logarithmic, labels))
    return made


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float:
    return float(value) if _is_number(value) else float("nan")


def state_of(row: Row) -> str:
    """Why a row has no result: `failed`, `stopped` or `to run`; empty where there is one."""
    if any(row.found.values()):
        return ""
    return next((state for state in STATES if state in row.state), "to run")


def best_row(table: ResultTable) -> tuple[Row | None, str]:
    """The best row, and what it is called in legends; None where there is no other."""
    best = find_best(table)
    if best is None or best.next is None:
        return None, ""
    if best.level is None:
        return best.row, "best, seeds too few to tell"
    return best.row, "clearly best" if best.clearly else "best, not clearly"


def row_label(table: ResultTable, row: Row, only: Sequence[Field]) -> str:
    """A row's values without their names, in the order of the fields, of which it may lack some."""
    values = [row.varied[field.name] for field in only if field.name in row.varied] or [row.label]
    whole = " · ".join(values)
    if len(whole) > _MOST_LETTERS:
        each = max(_LEAST_LETTERS, _MOST_LETTERS // len(values) - 3)
        whole = " · ".join(shortened(value, each) for value in values)
    return shortened(whole, 2 * _MOST_LETTERS)


def shown_rows(table: ResultTable, most: int) -> tuple[list[Row], str]:
    """The rows that a picture has room for, the best where these are not all, and a sentence on
    the others."""
    rows = [row for row in table.rows if row.found or row.state != "-"]
    if len(rows) <= most:
        return rows, ""
    states = [state_of(row) for row in rows]
    without = [f"{states.count(s)} {s}" for s in STATES if s in states]
    also = f" ({', '.join(without)})" if without else ""
    return best_first(table)[
        :most
    ], f"The best {most} of {len(rows)} rows{also}; the table has all."


def some_labels(field: Field, most: int | None = None) -> tuple[list[int], list[str]]:
    """Places and texts of ticks; of many values, some. most: letters of a text."""
    step = -(-len(field.labels) // _MOST_LABELS)
    places = list(range(0, len(field.labels), step))
    return places, [_cut(field.labels[place], most) for place in places]


def _cut(text: str, most: int | None) -> str:
    return named(text) if most is None else shortened(text, most)
