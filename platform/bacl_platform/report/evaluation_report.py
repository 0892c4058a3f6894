"""What an evaluation of one set of detections looks like: on a terminal, as a page and as JSON.

The page is a report's, with a table of categories and one of what errors cost (of masks, another).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bacl_platform.analysis.error_types import KINDS
from bacl_platform.analysis.profiles import Analysis, Profile
from bacl_platform.analysis.results import Report
from bacl_platform.console import say
from bacl_platform.plan.metric_names import group_precision
from bacl_platform.report.experiment_report import legend, print_tables
from bacl_platform.report.pages import Section, Table

if TYPE_CHECKING:
    from rich.console import Console

_MOST_ROWS = 100
"""Categories that a page lists; per_category.csv has all."""
_MOST_CONFUSED = 20


def sections(report: Report, analysis: Analysis | None) -> list[Section]:
    """The tables of categories and of errors, those of boxes first."""
    return [_categories(report), *map(_errors, _analyses(analysis))]


def _analyses(analysis: Analysis | None) -> list[Analysis]:
    """That of boxes and, where there are masks, that of masks; none without boxes to judge by."""
    if analysis is None or not analysis.members:
        return []
    return [analysis] if analysis.masks is None else [analysis, analysis.masks]


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


def _errors(analysis: Analysis) -> Section:
    (profile,) = analysis.profiles.values()
    body = [
        [f"{kind}: {words}", *(_points(gain) for gain in _gains(analysis, profile, number))]
        for number, (kind, words) in enumerate(KINDS.items())
    ]
    columns = _columns(analysis)
    masks = " of masks" if analysis.iou == "segm" else ""
    return Section(
        f"What errors{masks} cost",
        [
            f"Points of {columns[0]} that fixing all errors of one kind (TIDE's) would add, each "
            "by itself."
        ],
        [Table(["kind", *columns], body)],
    )


def _columns(analysis: Analysis) -> list[str]:
    """The names of what `_gains` gives, such as AP50 and AP50_r."""
    ap50 = f"{analysis.metric}50"
    return [ap50, *(group_precision(name, ap50) for name in analysis.members)]


def _gains(analysis: Analysis, profile: Profile, kind: int) -> Iterator[float]:
    """Of all categories with boxes, and of each group."""
    every = np.concatenate(list(analysis.members.values()))
    for labels in (every, *analysis.members.values()):
        yield float(profile.gain[kind, labels].mean())


def as_json(report: Report, analysis: Analysis | None) -> dict[str, Any]:
    """Fractions; null for no category. errors and confusions where they were analysed, and of masks
    mask_errors and mask_confusions."""
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
    for one in _analyses(analysis):
        profile = one.profiles[result.variant]
        prefix = "mask_" if one.iou == "segm" else ""
        made[f"{prefix}errors"] = {
            kind: dict(zip(_columns(one), _gains(one, profile, number)))
            for number, kind in enumerate(KINDS)
        }
        made[f"{prefix}confusions"] = list(_confusions(one, profile))
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
