"""Gains over the first row of a published table, which compare across data sets."""

from collections.abc import Sequence

from bacl_platform.report.result_table.rows import BySeed, ResultTable, Row
from bacl_platform.report.result_table.statistics import paired


def first_row(table: ResultTable) -> Row | None:
    """The row that gains are over: of the paper's rows, the first that ours has results for.

    None where there is none, or no paper's table.
    """
    if table.paper is None:
        return None
    for match, _ in table.paper.rows:
        for row in table.rows:
            if matches(match, row) and any(table.compared(row).values()):
                return row
    return None


def matches(match: object, row: Row) -> bool:
    """Whether a row is the one that a paper's row is for: its values in short, or its name."""
    return isinstance(match, dict) and match.items() <= dict(row.varied).items()


def gains(table: ResultTable, row: Row, metric: str, first: Row | None) -> Sequence[float]:
    """A row's points less the first row's, by seed (S,); none between replayed and exact ones."""
    if first is None or (row.features != first.features and not table.screened):
        return []
    own: BySeed = table.compared(row).get(metric, {})
    return paired(own, table.compared(first).get(metric, {}))


def papers_gain(row: Row, metric: str, first: Row | None) -> float | None:
    """The paper's points less those of its first row; None where it lacks either."""
    own = row.paper.get(metric)
    other = None if first is None else first.paper.get(metric)
    return None if own is None or other is None else own - other


def gains_note(table: ResultTable) -> list[str]:
    """What the gains are, and why they and not points are compared, in a sentence."""
    if table.paper is None or not table.paper.unlike:
        return []
    first = first_row(table)
    if first is None:
        return [f"{table.paper.unlike}, and there is no row yet that gains could be over."]
    match = table.paper.rows[0][0]
    which = "the first row" if matches(match, first) else "the first row that both have"
    return [f"{table.paper.unlike}: compare the gains over {which}, {first.label}."]
