"""A study's tables and claims in Markdown."""

from collections.abc import Mapping, Sequence
from statistics import stdev

from claims import CLAIMS, judged
from studies import Study, Table

from bacl_platform.analysis.differences import Change, interval_text, signed
from bacl_platform.analysis.matrix import Matrix
from bacl_platform.analysis.results import Report

SHOWN = ("AP", "AP_r", "APFixed", "APFixed_r")


def section(study: Study, report: Report, matrices: Mapping[str, Matrix], facts: str) -> str:
    """A study: what it is of, each table with what is told apart in it, and the paper's claims."""
    lines = [f"## {study.title}", "", facts, ""]
    for table in study.tables:
        lines += [*table_lines(table, report, matrices[table.name]), ""]
    lines += claim_lines(study, matrices)
    return "\n".join(lines)


def table_lines(table: Table, report: Report, matrix: Matrix) -> list[str]:
    """A table, its rows in order, gains over the first; and which pairs are told apart."""
    paper = any(row.paper for row in table.rows)
    head = [
        table.title,
        *SHOWN,
        "gain in AP",
        "gain in AP_r",
        *(["the paper's gain"] if paper else []),
    ]
    lines = [f"### {table.name}: {table.title}", "", _row(head), _row(["---"] * len(head))]
    first = table.rows[0]
    for row in table.rows:
        cells = [row.label, *(_points(report.values(row.variant, name)) for name in SHOWN)]
        for name in ("AP", "AP_r"):
            place = matrix.names.index(row.variant)
            cells.append(_gain(matrix, name, place, matrix.names.index(first.variant)))
        if paper:
            cells.append(_paper_gain(row.paper, first.paper))
        lines.append(_row(cells))
    return [*lines, "", *(told_apart(table, matrix, name) for name in ("AP", "AP_r"))]


def _points(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    if not values:
        return "–"
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * sum(values) / len(values):.1f}{spread}"


def _gain(matrix: Matrix, metric: str, row: int, first: int) -> str:
    """The gain of a row over the first, with its interval."""
    if row == first:
        return ""
    change = matrix.change(metric, row, first)
    low, high = change.low, change.high
    if row < first:
        low, high = -high, -low
    interval = interval_text(Change(0, 0, low, high, []))
    return f"{signed(matrix.gain(metric, row, first))} {interval}"


def _paper_gain(own: Mapping[str, float], first: Mapping[str, float]) -> str:
    """Gains in AP and AP_r that the paper prints, in points."""
    gains = [
        f"{own[name] - first[name] + 0.0:+.1f}" if name in own and name in first else "–"
        for name in ("AP", "AP_r")
    ]
    return "" if own is first or gains == ["–", "–"] else " / ".join(gains)


def told_apart(table: Table, matrix: Matrix, metric: str) -> str:
    """A sentence on which rows are clearly better than which, after Holm's correction."""
    labels = {row.variant: row.label for row in table.rows}
    rows = [matrix.names.index(variant) for variant in labels]
    clear = {
        row: [
            other for other in rows if other != row and matrix.standing(metric, row, other) == "+"
        ]
        for row in rows
    }
    pairs = len(rows) * (len(rows) - 1) // 2
    number = sum(map(len, clear.values()))
    if pairs == 1:
        return f"- {metric}: the two rows are {'' if number else 'not '}told apart."
    if not number:
        return f"- {metric}: none of the {pairs} pairs of rows is told apart."
    if number == pairs:
        return f"- {metric}: all {pairs} pairs of rows are told apart."
    worst = [
        labels[matrix.names[row]]
        for row in rows
        if all(row in o for r, o in clear.items() if r != row)
    ]
    best = [
        labels[matrix.names[row]] for row, others in clear.items() if len(others) == len(rows) - 1
    ]
    said = [f"{number} of the {pairs} pairs of rows are told apart"]
    said += [f"{name} is clearly better than all others" for name in best]
    said += [f"{name} is clearly worse than all others" for name in worst]
    return f"- {metric}: {'; '.join(said)}."


def claim_lines(study: Study, matrices: Mapping[str, Matrix]) -> list[str]:
    """The paper's claims, one a line."""
    head = ["claim", "by", "here", "gain"]
    lines = ["### What this says of the paper's claims", "", _row(head), _row(["---"] * 4)]
    tables = {table.name: {row.label: row.variant for row in table.rows} for table in study.tables}
    for claim in CLAIMS:
        rows = tables.get(claim.table, {})
        if not {claim.better, *claim.others} <= rows.keys():
            continue
        verdict, gains = judged(claim, matrices[claim.table], rows)
        lines.append(_row([claim.text, f"{claim.metric}, {claim.table}", f"**{verdict}**", gains]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
