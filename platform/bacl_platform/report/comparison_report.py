"""What a comparison of two variants looks like: on a terminal, as a page and as JSON.

Fractions become points (times 100) only here.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl_platform.analysis.compare import (
    CONFIDENCE,
    FEWEST_IMAGES,
    CategoryChange,
    Change,
    Comparison,
    interval_text,
    signed,
    spread_text,
)
from bacl_platform.console import say
from bacl_platform.report.pages import (
    Section,
    Table,
    html_page,
    html_section,
    markdown_section,
)
from bacl_platform.store.disk import disk_errors
from bacl_platform.texts import one_line

if TYPE_CHECKING:
    from rich.console import Console

_SPOKEN = {"AP": "", "mask_AP": " by mask AP"}


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def legend(comparison: Comparison) -> str:
    """What the numbers are."""
    seeds = comparison.seeds
    of_seeds = f", means over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    said = (
        f"AP in points{of_seeds}; in brackets the {CONFIDENCE:.0%} interval of the difference over "
        f"{comparison.resamples} resamples of the {comparison.images} validation images, the same "
        "for both."
    )
    if len(seeds) > 1:
        said += " ± is the standard deviation of the difference over seeds."
    of_categories = (one for changes in comparison.categories.values() for one in changes)
    if any(math.isnan(one.low) for one in (*comparison.metrics.values(), *of_categories)):
        said += (
            f" No interval where fewer than {FEWEST_IMAGES} validation images show what it is of."
        )
    return said


def metric_table(comparison: Comparison) -> Table:
    """A row for each metric."""
    several = len(comparison.seeds) > 1
    head = ["", comparison.first, comparison.second, "difference", "95% interval"]
    body = [
        [
            name,
            _points(change.first),
            _points(change.second),
            signed(change.difference),
            interval_text(change),
            *([spread_text(change).strip()] if several else []),
            comparison.word(change),
        ]
        for name, change in comparison.metrics.items()
    ]
    return Table([*head, *(["over seeds"] if several else []), ""], body)


def category_table(comparison: Comparison, changes: Sequence[CategoryChange]) -> Table:
    """A row for each category."""
    head = ["category", "group", "training images", "instances", "boxes in val"]
    return Table(
        [*head, comparison.first, comparison.second, "difference", "95% interval"],
        [
            [
                one.category.name,
                one.category.frequency,
                str(one.category.image_count),
                str(one.category.instance_count),
                str(one.boxes),
                _points(one.first),
                _points(one.second),
                signed(one.difference),
                interval_text(one),
            ]
            for one in changes
        ],
    )


def sections(comparison: Comparison) -> list[Section]:
    """The comparison as sections of a page."""
    from bacl_platform.report.plots.registry import Page, shown

    names = f"{comparison.second} against {comparison.first}"
    if not comparison.metrics:
        return [Section(names, [*_mark(comparison), *comparison.notes])]
    made = [
        Section(
            names,
            [*_mark(comparison), legend(comparison), *comparison.notes],
            [metric_table(comparison)],
            shown(Page.COMPARISON, comparison),
        )
    ]
    for title, changed in _most_changed(comparison):
        made.append(
            Section(f"Categories that {title}", tables=[category_table(comparison, changed)])
        )
    return made


def _mark(comparison: Comparison) -> list[str]:
    return [comparison.replayed] if comparison.replayed else []


def _most_changed(comparison: Comparison) -> Iterator[tuple[str, list[CategoryChange]]]:
    """The categories that gained or lost most, with a title for them, where there are any."""
    for kind in comparison.categories:
        for title, changed in (
            ("gained most", comparison.gained(kind)),
            ("lost most", comparison.lost(kind)),
        ):
            if changed:
                yield f"{title}{_SPOKEN[kind]}", changed


def write(comparison: Comparison, out: Path) -> Path:
    """Write the comparison to the folder `out` as Markdown and HTML; the HTML page's path.

    Raises RunError where the disk is full or the folder cannot be written.
    """
    made = sections(comparison)
    title = comparison.title
    page = out / f"{comparison.stem}.html"
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for picture in (picture for section in made for picture in section.pictures):
            (out / picture.file).write_bytes(picture.content)
        lines = [f"# {title}", "", *(line for one in made for line in markdown_section(one))]
        page.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        parts = (part for one in made for part in html_section(one))
        page.write_text(html_page(title, parts), encoding="utf-8")
    return page


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Fractions; categories by name, the largest gain first."""

    def change_as_json(change: Change) -> dict[str, Any]:
        return {
            comparison.first: change.first,
            comparison.second: change.second,
            "difference": change.difference,
            "interval": None if math.isnan(change.low) else [change.low, change.high],
            "by_seed": dict(zip(map(str, comparison.seeds), change.by_seed)),
        }

    return {
        "first": comparison.first,
        "second": comparison.second,
        "features": dict(zip((comparison.first, comparison.second), comparison.features)),
        "evaluated_with": dict(
            zip((comparison.first, comparison.second), comparison.evaluated_with)
        ),
        "confidence": CONFIDENCE,
        "resamples": comparison.resamples,
        "images": comparison.images,
        "metrics": {name: change_as_json(change) for name, change in comparison.metrics.items()},
        **{
            kind.replace("AP", "categories"): [
                {**one.category.model_dump(), "boxes": one.boxes, **change_as_json(one)}
                for one in changed
            ]
            for kind, changed in comparison.categories.items()
        },
        "notes": [*_mark(comparison), *comparison.notes],
    }


def print_comparison(comparison: Comparison, page: Path, console: "Console") -> None:
    """The tables, and a verdict for each metric."""
    for mark in _mark(comparison):
        say(console, mark)
    for name in comparison.metrics:
        say(console, comparison.verdict(name))
    for title, changed in _most_changed(comparison):
        say(console, "")
        _print_table(title, category_table(comparison, changed), console)
    if comparison.metrics:
        say(console, "")
        say(console, legend(comparison))
    for note in comparison.notes:
        say(console, note)
    say(console, f"report: {page} (and .md)")


def _print_table(title: str, table: Table, console: "Console") -> None:
    from rich import box
    from rich.table import Table as Printed

    shown = Printed(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, head in enumerate([title, *table.head[1:]]):
        shown.add_column(head, justify="left" if number < 2 else "right", overflow="fold")
    for cells in table.body:
        shown.add_row(*map(one_line, cells))
    if not console.is_terminal:  # a file or a pipe has no edge to wrap at
        needed = console.measure(shown, options=console.options.update(width=1000))
        console.width = max(console.width, needed.maximum)
    console.print(shown)
