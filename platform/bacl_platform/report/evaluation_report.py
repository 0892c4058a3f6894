"""What an evaluation of one set of detections looks like: on a terminal, as a page and as JSON.

The page is a report's, with a table of categories and one of what errors cost.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bacl_platform.analysis.error_types import KINDS
from bacl_platform.analysis.profiles import Analysis, Profile
from bacl_platform.analysis.results import Report
from bacl_platform.console import say
from bacl_platform.report.experiment_report import legend, print_tables
from bacl_platform.report.pages import Section, Table

if TYPE_CHECKING:
    from rich.console import Console

_MOST_ROWS = 100
"""Categories that a page lists; per_category.csv has all."""
_MOST_CONFUSED = 20


def sections(report: Report, analysis: Analysis | None) -> list[Section]:
    """The tables of categories and of errors."""
    made = [_categories(report)]
    if analysis is not None and analysis.members:
        made.append(_errors(analysis, analysis.profiles[report.variants[0]]))
    return made


def _categories(report: Report) -> Section:
    (result,) = report.results
    kinds = report.columns
    facts = ["name", "frequency", "image_count", "instance_count"]
    rows = sorted(result.categories, key=lambda row: -(row["AP"] if row["AP"] is not None else -1))
    said = [f"The {_MOST_ROWS} best; per_category.csv has all."] if len(rows) > _MOST_ROWS else []
    body = [
        [*(str(row[fact]) for fact in facts), *(_points(row[kind]) for kind in kinds)]
        for row in rows[:_MOST_ROWS]
    ]
    head = ["category", "group", "training images", "instances", *kinds]
    return Section("Categories", said, [Table(head, body)])


def _points(fraction: float | None) -> str:
    return "–" if fraction is None or np.isnan(fraction) else f"{100 * fraction:.1f}"


def _errors(analysis: Analysis, profile: Profile) -> Section:
    body = [
        [f"{kind}: {words}", *(_points(gain) for gain in _gains(analysis, profile, number))]
        for number, (kind, words) in enumerate(KINDS.items())
    ]
    groups = [f"AP50_{name}" for name in analysis.members]
    return Section(
        "What errors cost",
        ["Points of AP50 that fixing all errors of one kind (TIDE's) would add, each by itself."],
        [Table(["kind", "AP50", *groups], body)],
    )


def _gains(analysis: Analysis, profile: Profile, kind: int) -> Iterator[float]:
    """Of all categories with boxes, and of each group."""
    every = np.concatenate(list(analysis.members.values()))
    for labels in (every, *analysis.members.values()):
        yield float(profile.gain[kind, labels].mean())


def as_json(report: Report, analysis: Analysis | None) -> dict[str, Any]:
    """Fractions; null for no category. errors and confusions where they were analysed."""
    (result,) = report.results
    made: dict[str, Any] = {
        "name": result.variant,
        "metrics": result.metrics,
        "fixed_limit": result.fixed_limit,
        "evaluator": result.evaluator,
        "categories": [
            {**category.model_dump(), **{kind: row.get(kind) for kind in report.columns}}
            for category, row in zip(report.prepared.categories, result.categories, strict=True)
        ],
        "notes": report.notes,
    }
    if analysis is not None and analysis.members:
        profile = analysis.profiles[result.variant]
        names = ["AP50", *(f"AP50_{name}" for name in analysis.members)]
        made["errors"] = {
            kind: dict(zip(names, _gains(analysis, profile, number)))
            for number, kind in enumerate(KINDS)
        }
        made["confusions"] = list(_confusions(analysis, profile))
    return made


def _confusions(analysis: Analysis, profile: Profile) -> Iterator[dict[str, Any]]:
    """The most frequent pairs of a box's category and another that it is taken for."""
    counts = profile.confusion.counts[:, :-1].copy()
    np.fill_diagonal(counts, 0)
    categories = analysis.prepared.categories
    for place in np.argsort(-counts, axis=None, kind="stable")[:_MOST_CONFUSED]:
        own, called = np.unravel_index(place, counts.shape)
        if counts[own, called]:
            yield {
                "category": categories[own].name,
                "taken_for": categories[called].name,
                "boxes": int(counts[own, called]),
                "judged": int(profile.confusion.judged[own, called]),
            }


def print_evaluation(report: Report, out: Path, console: "Console") -> None:
    """The table, and where everything is."""
    print_tables(report, console)
    say(console, legend(report))
    for note in report.notes:
        say(console, note)
    say(console, f"report: {out / 'report.html'} (and report.md, per_category.csv, pictures)")
