"""What a comparison of every pair of variants looks like: on a terminal, as a page and as JSON.

Fractions become points (times 100) only here.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

from bacl_platform.analysis.differences import (
    CONFIDENCE,
    FEWEST_IMAGES,
    Change,
    interval_text,
    settling_text,
    signed,
    source_text,
    spread_text,
)
from bacl_platform.analysis.matrix import LETTERS, Matrix
from bacl_platform.analysis.uncertainty import MOST_SEEDS
from bacl_platform.console import say
from bacl_platform.report.comparison_report import about_seeds, change_as_json
from bacl_platform.report.pages import (
    Section,
    Table,
    html_page,
    html_section,
    markdown_section,
)
from bacl_platform.store.disk import disk_errors
from bacl_platform.texts import one_line, shortened

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80
"""Columns of a terminal that the matrices fit."""
_LEAST_NAME, _MOST_NAME = 10, 24
"""Columns for the names of variants."""
_MOST_PAIRS = 66
"""Pairs that a page lists, those of twelve variants; JSON has all."""


def _points(fraction: float) -> str:
    return "–" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def letters(matrix: Matrix) -> list[str]:
    """The letter of each variant, in the order of the first metric."""
    found = [""] * len(matrix.names)
    for letter, place in zip(LETTERS, order(matrix)):
        found[place] = letter
    return found


def order(matrix: Matrix) -> list[int]:
    """Places of the variants, the best by the first metric first."""
    return matrix.order(matrix.measures[0]) if matrix.measures else list(range(len(matrix.names)))


def legend(matrix: Matrix) -> str:
    """What the marks on a terminal are."""
    said = (
        "+ where the variant of the row is better than that of the column's letter, - where it is "
        f"worse, . where that is open. {claims_text(matrix)}"
    )
    if any(
        math.isnan(change.p_value) for pair in matrix.pairs.values() for change in pair.values()
    ):
        said += f" ? where fewer than {FEWEST_IMAGES} validation images show what a metric is of."
    return said


def claims_text(matrix: Matrix) -> str:
    """What is claimed of all pairs together, and from what, in sentences."""
    return (
        f"What is said of all {len(matrix.pairs)} pairs of a metric is right together with "
        f"{CONFIDENCE:.0%} confidence (Holm's correction). Values are in points. Over "
        f"{matrix.resamples} resamples of the {matrix.images} validation images, the same for all."
    )


def seeds_text(matrix: Matrix) -> str:
    """What seeds the pairs are compared over, and what follows, in sentences."""
    common = [seeds for seeds in matrix.seeds if seeds]
    fewest = min(common, key=len, default=[])
    over = "images and seeds" if len(fewest) > 1 else "images alone"
    said = f"Intervals are over {over}. {about_seeds(fewest, matrix.pooled)}"
    if matrix.pooled:
        said += (
            " How far seeds differ is taken from all variants that share them, and from the pair "
            "alone where that is more."
        )
    return said


# On the terminal


def print_matrix(matrix: Matrix, page: Path, console: "Console") -> None:
    """The matrices side by side, as many as fit, and what they mean."""
    for line in lines(matrix):
        say(console, line)
    if matrix.measures:
        say(console, legend(matrix))
        say(console, seeds_text(matrix))
    for note in matrix.notes:
        say(console, note)
    say(console, f"report: {page} (and .md)")


def lines(matrix: Matrix) -> Iterator[str]:
    """Matrices of all metrics, side by side in at most `WIDTH` columns."""
    names, places = letters(matrix), order(matrix)
    shown = [name for measure in matrix.measures for name in matrix.of(measure)]
    shown = [name for name in shown if name in matrix.metrics]
    head = "".join(names[place] for place in places)
    longest = max(cell_len(one_line(name)) for name in matrix.names)
    block = max(7 + len(places), max((len(name) for name in shown), default=0) + 1)
    label = min(max(longest, _LEAST_NAME), _MOST_NAME, max(WIDTH - 3 - block, _LEAST_NAME))
    fit = max(1, (WIDTH - 2 - label) // (block + 1))
    for start in range(0, len(shown), fit):
        some = shown[start : start + fit]
        yield _line(" " * (2 + label), [name.ljust(block) for name in some])
        yield _line(" " * (2 + label), [f"{'':6} {head}".ljust(block) for _ in some])
        for row in places:
            name = set_cell_size(shortened(matrix.names[row], label), label)
            parts = []
            for metric in some:
                marks = "".join(
                    "\\" if row == column else matrix.standing(metric, row, column)
                    for column in places
                )
                parts.append(f"{_points(matrix.values[metric][row]):>6} {marks}".ljust(block))
            yield _line(f"{names[row]} {name}", parts)
        yield ""


def _line(label: str, parts: Sequence[str]) -> str:
    return " ".join([label, *parts]).rstrip()


# As a page


def sections(matrix: Matrix) -> list[Section]:
    """The comparison as sections of a page."""
    from bacl_platform.report.plots.registry import Page, shown

    pictures = shown(Page.MATRIX, matrix) if matrix.measures else []
    first = [claims_text(matrix), seeds_text(matrix)] if matrix.measures else []
    made = [Section("Every pair of variants", [*first, *matrix.notes], pictures=pictures)]
    for measure in matrix.measures:
        made.append(
            Section(
                measure,
                ["Row less column, in points; with a star where that is clear for all pairs."],
                [matrix_table(matrix, name) for name in matrix.of(measure)],
            )
        )
        if len(matrix.pairs) <= _MOST_PAIRS:
            made.append(Section(f"Pairs by {measure}", tables=[pair_table(matrix, measure)]))
    return made


def matrix_table(matrix: Matrix, metric: str) -> Table:
    """A row and a column for each variant."""
    names, places = letters(matrix), order(matrix)
    body = [
        [
            f"{names[row]} {matrix.names[row]}",
            _points(matrix.values[metric][row]),
            *(_cell(matrix, metric, row, column) for column in places),
        ]
        for row in places
    ]
    return Table([metric, "value", *(names[place] for place in places)], body)


def _cell(matrix: Matrix, metric: str, row: int, column: int) -> str:
    if row == column:
        return ""
    difference = matrix.gain(metric, row, column)
    standing = matrix.standing(metric, row, column)
    if standing == "?":
        return "?"
    text = "–" if math.isnan(difference) else signed(difference)
    return f"{text}*" if standing in "+-" else text


def pair_table(matrix: Matrix, metric: str) -> Table:
    """A row for each pair, the best-founded difference first."""
    rows = []
    for (first, second), pair in matrix.pairs.items():
        change, corrected = pair[metric], matrix.corrected[metric][first, second]
        rows.append(
            (
                corrected,
                change.p_value,
                [
                    f"{matrix.names[second]} against {matrix.names[first]}",
                    signed(change.difference),
                    interval_text(change),
                    spread_text(change).strip(),
                    _probability(change.p_value),
                    _probability(corrected),
                    source_text(change),
                    _settling(change),
                ],
            )
        )
    rows.sort(key=lambda row: [math.inf if math.isnan(value) else value for value in row[:2]])
    head = [
        "pair",
        "difference",
        "95% interval",
        "over seeds",
        "p",
        "p (Holm)",
        "mostly from",
        "seeds to settle",
    ]
    return Table(head, [cells for *_, cells in rows])


def _settling(change: Change) -> str:
    """How many seeds would settle an open question; empty where it is settled or nothing is known
    of seeds."""
    if not settling_text(change):
        return ""
    if change.settling is not None:
        return str(change.settling)
    return f">{MOST_SEEDS} (images)" if change.limited else f">{MOST_SEEDS}"


def _probability(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def write(matrix: Matrix, out: Path) -> Path:
    """Write the comparison to the folder `out` as Markdown and HTML; the HTML page's path.

    Raises RunError where the disk is full or the folder cannot be written.
    """
    made = sections(matrix)
    title = f"{matrix.title}: every pair"
    page = out / f"{matrix.stem}.html"
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for picture in (picture for section in made for picture in section.pictures):
            (out / picture.file).write_bytes(picture.content)
        text = [f"# {title}", "", *(line for one in made for line in markdown_section(one))]
        page.with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")
        parts = (part for one in made for part in html_section(one))
        page.write_text(html_page(title, parts), encoding="utf-8")
    return page


# As JSON


def as_json(matrix: Matrix) -> dict[str, Any]:
    """Fractions; a list of pairs, each with the change from `first` to `second` by metric."""
    pairs = []
    for (first, second), pair in matrix.pairs.items():
        sides = matrix.names[first], matrix.names[second]
        metrics = {}
        for name, change in pair.items():
            corrected = matrix.corrected[name][first, second]
            metrics[name] = {
                **change_as_json(change, sides),
                "by_seed": change.by_seed,
                "p_value_holm": None if math.isnan(corrected) else corrected,
                "better": _better(matrix, name, first, second),
            }
        pairs.append({"first": sides[0], "second": sides[1], "metrics": metrics})
    return {
        "variants": matrix.names,
        "seeds": dict(zip(matrix.names, matrix.seeds)),
        "confidence": CONFIDENCE,
        "resamples": matrix.resamples,
        "images": matrix.images,
        "values": {
            name: {
                variant: None if math.isnan(value) else value
                for variant, value in zip(matrix.names, values)
            }
            for name, values in matrix.values.items()
        },
        "pairs": pairs,
        "notes": matrix.notes,
    }


def _better(matrix: Matrix, metric: str, first: int, second: int) -> str | None:
    """The name of the clearly better one of a pair; None where that is open."""
    standing = matrix.standing(metric, first, second)
    return {"+": matrix.names[first], "-": matrix.names[second]}.get(standing)
