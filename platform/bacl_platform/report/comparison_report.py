"""What a comparison of two variants looks like: on a terminal, as a page and as JSON.

Fractions become points (times 100) only here.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl_platform.analysis.compare import Comparison
from bacl_platform.analysis.differences import (
    CONFIDENCE,
    FEWEST_IMAGES,
    CategoryChange,
    Change,
    interval_of_images_text,
    interval_text,
    settling_text,
    signed,
    source_text,
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


def named(kind: str) -> str:
    """A measure in words, such as `mask AP`."""
    return kind.replace("_", " ")


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def legend(comparison: Comparison) -> str:
    """What the numbers are."""
    seeds = comparison.seeds
    of_seeds = f", means over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    over = "images and seeds" if len(seeds) > 1 else "images alone"
    said = (
        f"In points{of_seeds}; in brackets the {CONFIDENCE:.0%} interval of the difference over "
        f"{over}, from {comparison.resamples} resamples of the {comparison.images} validation "
        f"images, the same for all. {about_seeds(seeds)}"
    )
    of_categories = (one for changes in comparison.categories.values() for one in changes)
    if any(math.isnan(one.low) for one in (*comparison.metrics.values(), *of_categories)):
        said += (
            f" No interval where fewer than {FEWEST_IMAGES} validation images show what it is of."
        )
    return said


def about_seeds(seeds: Sequence[int], pooled: bool = False) -> str:
    """What intervals over so many seeds say, in sentences; pooled: whether the seeds' variance is
    known from more than two variants."""
    if not seeds:
        return "Intervals say what other images would have said of these very detections."
    if len(seeds) == 1:
        return (
            "With one seed, intervals say what other images would have said of these very "
            "detectors, and nothing of what training again would change."
        )
    said = (
        "Intervals say what training again and other images would give; ± is the standard "
        "deviation of the difference over seeds."
    )
    if len(seeds) == 2 and not pooled:
        said += (
            " Two seeds tell little of how far seeds differ, so that intervals are wide unless "
            "these two agree; a third narrows them most."
        )
    return said


def metric_table(comparison: Comparison) -> Table:
    """A row for each metric."""
    several = len(comparison.seeds) > 1
    head = ["", comparison.first, comparison.second, "difference", "95% interval"]
    more = ["over seeds", "images alone", "mostly from"]
    body = [
        [
            name,
            _points(change.first),
            _points(change.second),
            signed(change.difference),
            interval_text(change),
            *(
                [
                    spread_text(change).strip(),
                    interval_of_images_text(change),
                    source_text(change),
                ]
                if several
                else []
            ),
            comparison.word(change),
        ]
        for name, change in comparison.metrics.items()
    ]
    return Table([*head, *(more if several else []), ""], body)


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
            [
                *_mark(comparison),
                legend(comparison),
                *open_questions(comparison),
                *comparison.notes,
            ],
            [metric_table(comparison)],
            shown(Page.COMPARISON, comparison),
        )
    ]
    for title, changed in _most_changed(comparison):
        made.append(
            Section(f"Categories that {title}", tables=[category_table(comparison, changed)])
        )
    return made


def open_questions(comparison: Comparison) -> list[str]:
    """How many seeds would settle what is not clear, in a sentence; none where nothing is open."""
    said = {name: settling_text(change) for name, change in comparison.metrics.items()}
    parts = [f"{name}: {words}" for name, words in said.items() if words]
    return [f"What is open: {'; '.join(parts)}."] if parts else []


def _mark(comparison: Comparison) -> list[str]:
    return [comparison.replayed] if comparison.replayed else []


def _most_changed(comparison: Comparison) -> Iterator[tuple[str, list[CategoryChange]]]:
    """The categories that gained or lost most, with a title for them, where there are any."""
    for kind in comparison.kinds:
        for title, changed in (
            ("gained most", comparison.gained(kind)),
            ("lost most", comparison.lost(kind)),
        ):
            if changed:
                yield f"{title}{'' if kind == 'AP' else f' by {named(kind)}'}", changed


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

    names = comparison.first, comparison.second

    def with_seeds(change: Change) -> dict[str, Any]:
        made = change_as_json(change, names)
        return {**made, "by_seed": dict(zip(map(str, comparison.seeds), change.by_seed))}

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
        "metrics": {name: with_seeds(change) for name, change in comparison.metrics.items()},
        **{
            _key(kind): [
                {**one.category.model_dump(), "boxes": one.boxes, **with_seeds(one)}
                for one in changed
            ]
            for kind, changed in comparison.categories.items()
        },
        "notes": [*_mark(comparison), *comparison.notes],
    }


def _key(measure: str) -> str:
    """What JSON calls the categories by a measure: `categories` of AP, else after the measure."""
    return {"AP": "categories", "mask_AP": "mask_categories"}.get(measure, f"{measure}_categories")


def change_as_json(change: Change, names: tuple[str, str]) -> dict[str, Any]:
    """Fractions, None for what is not known. names: of the first and the second."""

    def known(value: float) -> float | None:
        return None if math.isnan(value) else value

    def interval(low: float, high: float) -> list[float] | None:
        return None if math.isnan(low) else [low, high]

    return {
        names[0]: change.first,
        names[1]: change.second,
        "difference": change.difference,
        "interval": interval(change.low, change.high),
        "interval_over_images_alone": interval(*change.these),
        "p_value": known(change.p_value),
        "variance": {"images": known(change.of_images), "seeds": known(change.of_seeds)},
        "seeds_to_settle": change.settling,
        "images_limit": change.limited,
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
