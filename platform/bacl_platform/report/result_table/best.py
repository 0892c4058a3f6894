"""The best row of a table, and whether seeds tell it from the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from bacl_platform.analysis.uncertainty import holm
from bacl_platform.report.result_table.points import bracket, number
from bacl_platform.report.result_table.rows import BySeed, ResultTable, Row
from bacl_platform.report.result_table.statistics import (
    LEAST_SEEDS,
    LEVEL,
    chance,
    interval,
    paired,
)

_MOST_NAMED = 3
"""Rows that a sentence names; of more, it says how many."""


@dataclass(frozen=True)
class Best:
    """The row of the best mean over seeds, of those with a result.

    rows: how many have one. next: the second best; None where there is none. differences: the
    best's less the next's, by seed (S,), in points. level: rows that are not told apart from the
    best; None where seeds are too few to tell.
    """

    row: Row
    rows: int
    next: Row | None
    differences: Sequence[float]
    level: Sequence[Row] | None
    exact: bool = False
    """Whether rows are the exact ones of a sweep that screens."""

    @property
    def clearly(self) -> bool:
        """Whether seeds tell it from every other row."""
        return self.next is not None and self.level is not None and not self.level


def find_best(table: ResultTable) -> Best | None:
    """The best row by the table's metric; None where no row has it, or rows do not compare.

    Of a sweep that screens, rows are exact ones where at least two are. It is told from another row
    where the p-value of their difference, paired by seed, is below 0.05 after Holm's correction for
    all other rows.
    """
    exact = table.screened and sum(bool(r.exact.get(table.metric)) for r in table.rows) > 1
    ranked = _ranked(table, exact)
    if not ranked:
        return None
    (best, own), others = ranked[0], ranked[1:]
    row, next_ = best, others[0][0] if others else None
    differences = paired(own, others[0][1]) if others else []
    chances = [chance(paired(own, points)) for _, points in others]
    known = [value for value in chances if value is not None]
    level: list[Row] | None = None
    if others and len(known) == len(others):
        adjusted = holm(np.array(known))
        level = [other for (other, _), p in zip(others, adjusted, strict=True) if p >= LEVEL]
    return Best(row, len(ranked), next_, differences, level, exact)


def _ranked(table: ResultTable, exact: bool) -> list[tuple[Row, BySeed]]:
    """Rows with the metric, the best first."""
    points_of = [(row, row.exact if exact else row.found) for row in table.rows]
    found = [(row, points[table.metric]) for row, points in points_of if points.get(table.metric)]
    if len({row.features for row, _ in found}) > 1:
        return []
    sign = -1 if table.mode == "max" else 1
    return sorted(found, key=lambda one: sign * mean(one[1].values()))


def best_first(table: ResultTable) -> list[Row]:
    """All rows, those with the table's metric first and the best of them at the top."""
    sign = -1 if table.mode == "max" else 1

    def place(row: Row) -> tuple[bool, float]:
        points = row.found.get(table.metric)
        return not points, sign * mean(points.values()) if points else 0.0

    return sorted(table.rows, key=place)


def best_sentences(table: ResultTable) -> list[str]:
    """What is best, and whether clearly; nothing where there is only one row."""
    found = find_best(table)
    if found is None or found.next is None:
        return []
    by = table.metric if table.mode == "max" else f"{table.metric} (lower is better)"
    kind = "exact " if found.exact else "replayed " if table.screened else ""
    known = "" if found.exact or found.rows == len(table.rows) else " with results"
    of = f"of {found.rows} {kind}rows{known}"
    difference = _difference(found.differences)
    ahead = f"{difference} to the next, {found.next.label}"
    if found.level is None:
        fewest = len(found.differences)
        why = (
            f"whether clearly cannot be told from {_seeds(fewest)}: {LEAST_SEEDS} or more are "
            "needed"
            if fewest < LEAST_SEEDS
            else f"whether clearly cannot be told, for some rows share fewer than {LEAST_SEEDS} "
            "seeds with it"
        )
        return [f"Best {of} by {by}: {found.row.label} ({ahead}); {why}."]
    how = f"over {_seeds(len(found.differences))}, paired, with Holm's correction"
    if found.clearly:
        return [f"Clearly best {of} by {by} ({how}): {found.row.label} ({ahead})."]
    return [
        f"Best {of} by {by}, not clearly ({how}): {found.row.label} ({ahead}); not told apart "
        f"from it: {_named(found.level)}."
    ]


def _difference(values: Sequence[float]) -> str:
    """`+0.5`, with its interval where seeds suffice."""
    if not values:
        return "no seed in common"
    spread = interval(values)
    shown = number(mean(values), "+")
    return shown if spread is None else f"{shown} {bracket(spread)}"


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _named(rows: Sequence[Row]) -> str:
    more = len(rows) - _MOST_NAMED
    names = "; ".join(row.label for row in rows[:_MOST_NAMED])
    return f"{names}; and {more} more" if more > 0 else names
