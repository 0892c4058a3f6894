"""A table of results as files: Markdown, a page, LaTeX, CSV, pictures, and as plain values."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bacl_platform import texts
from bacl_platform.report.pages import (
    Bold,
    Shown,
    csv_table,
    html_page,
    html_picture,
    html_table,
    latex_table,
    markdown_picture,
    markdown_table,
)
from bacl_platform.report.result_table.best import best_first, best_sentences
from bacl_platform.report.result_table.columns import columns
from bacl_platform.report.result_table.gains import first_row, gains, gains_note, papers_gain
from bacl_platform.report.result_table.rows import ResultTable, Row
from bacl_platform.store.disk import disk_errors

LEGEND = (
    "Metrics in points, times 100; over several seeds, mean ± standard deviation and, from three "
    "on, the 95 % interval of the mean by Student's t. Seeds share their validation images, which "
    "these intervals say nothing of."
)


def write(table: ResultTable, folder: Path) -> None:
    """Write the table to a folder in all its forms, and its pictures."""
    from bacl_platform.report.plots.registry import Page, shown

    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        pictures = shown(Page.TABLE, table)
        for picture in pictures:
            (folder / picture.file).write_bytes(picture.content)
        forms = {
            "md": markdown(table, pictures),
            "html": html(table, pictures),
            "tex": latex(table),
            "csv": as_csv(table),
        }
        for suffix, text in forms.items():
            (folder / f"table.{suffix}").write_text(text, encoding="utf-8", newline="")


def before(table: ResultTable) -> list[str]:
    """Sentences that a table begins with."""
    title = [table.paper.title] if table.paper else []
    return [*title, *table.notes, *gains_note(table)]


def after(table: ResultTable) -> list[str]:
    """Sentences that stand below a table."""
    agreed = [] if table.agreement is None else [table.agreement.sentence(table.metric)]
    return [*best_sentences(table), *agreed]


def markdown(table: ResultTable, pictures: Sequence[Shown] = ()) -> str:
    """The table in Markdown; pictures are links to files beside it."""
    lines = [f"# {texts.markdown(table.name)}", ""]
    for sentence in before(table):
        lines += [texts.markdown(sentence), ""]
    lines += markdown_table(*_cells(table))
    for sentence in [*after(table), LEGEND]:
        lines += ["", texts.markdown(sentence)]
    for picture in pictures:
        lines += ["", *markdown_picture(picture)]
    return "\n".join(lines).rstrip("\n") + "\n"


def summary(table: ResultTable, rows_at_most: int) -> str:
    """The table, best rows first, and notes in Markdown; of more rows than so many, the best."""
    head, lines = _cells(replace(table, rows=best_first(table)))
    found = []
    for sentence in before(table):
        found += [texts.markdown(sentence), ""]
    found += markdown_table(head, lines[:rows_at_most])
    if len(lines) > rows_at_most:
        found += ["", f"{len(lines) - rows_at_most} more are in the report."]
    for sentence in [*after(table), LEGEND]:
        found += ["", texts.markdown(sentence)]
    return "\n".join(found) + "\n"


def latex(table: ResultTable) -> str:
    """The table as a LaTeX `tabular`."""
    alignment = "".join("r" if column.kind == "number" else "l" for column in columns(table))
    return "\n".join(latex_table(*_cells(table), alignment)) + "\n"


def html(table: ResultTable, pictures: Sequence[Shown] = ()) -> str:
    """The table as a page of its own, pictures and all."""
    head, lines = _cells(table)
    body = [f"<p>{texts.html(sentence)}</p>" for sentence in before(table)]
    numbers = [column.kind == "number" for column in columns(table)]
    cells = [list(map(_html_cell, line, numbers)) for line in lines]
    # a table that is wider than the page scrolls by itself
    scrolled = html_table(list(map(texts.html, head)), cells)
    body.append(f'<div class="scrolled">\n{scrolled}\n</div>')
    body += [f"<p>{texts.html(sentence)}</p>" for sentence in [*after(table), LEGEND]]
    for picture in pictures:
        body += html_picture(picture)
    return html_page(table.name, body)


def _html_cell(cell: str, is_number: bool) -> str:
    """A cell's HTML; the interval of a mean stands below it."""
    points, bracket, bounds = cell.partition(" [") if is_number else (cell, "", "")
    shown = texts.html(points)
    if isinstance(cell, Bold):
        shown = f"<b>{shown}</b>"
    return shown + (f"<small>{texts.html(bracket.strip() + bounds)}</small>" if bracket else "")


def as_csv(table: ResultTable) -> str:
    """The table with one line for each row."""
    return csv_table(*_cells(table))


def _cells(table: ResultTable) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table as text."""
    made = columns(table)
    lines = [list(cells) for cells in zip(*(column.cells for column in made), strict=True)]
    return [column.name for column in made], lines


def as_json(table: ResultTable) -> dict[str, Any]:
    """Points of every trial and seed, the paper's, and what is said of them."""
    found: dict[str, Any] = {"sweep": table.name, "metric": table.metric, "mode": table.mode}
    found |= {"trials": rows_as_json(table), "notes": [*table.notes, *gains_note(table)]}
    found["conclusions"] = after(table)
    return found if table.agreement is None else {**found, "agreement": asdict(table.agreement)}


def rows_as_json(table: ResultTable) -> list[dict[str, Any]]:
    """Points of every row and seed, and the paper's; gains where these compare, by metric: ours
    seed by seed, and the paper's."""
    return [
        {
            "varied": dict(row.varied),
            "state": row.state,
            "error": row.error,
            "features": row.features,
            "evaluated_with": row.evaluated_with,
            "points": {metric: list(of.values()) for metric, of in row.found.items()},
            "by_seed": {
                metric: {str(seed): value for seed, value in of.items()}
                for metric, of in row.found.items()
            },
            "paper": dict(row.paper),
            **(_gains_as_json(table, row) if table.paper and table.paper.unlike else {}),
            **(
                {"exact": {metric: list(of.values()) for metric, of in row.exact.items()}}
                if table.screened
                else {}
            ),
        }
        for row in table.rows
    ]


def _gains_as_json(table: ResultTable, row: Row) -> dict[str, Any]:
    first = first_row(table)
    ours = {metric: list(gains(table, row, metric, first)) for metric in table.metrics}
    theirs = {metric: papers_gain(row, metric, first) for metric in row.paper}
    return {
        "gains": {metric: values for metric, values in ours.items() if values},
        "paper_gains": {metric: value for metric, value in theirs.items() if value is not None},
    }
