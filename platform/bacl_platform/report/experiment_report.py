"""Compares an experiment's variants: a table, pictures, and files that can be passed on.

Everything is read from the store. Fractions become points (times 100) only where they are shown.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from bacl.metric_names import lower_is_better
from bacl.settings import Groups
from bacl_platform import texts
from bacl_platform.analysis.results import Report
from bacl_platform.console import say
from bacl_platform.plan.job import Fidelity
from bacl_platform.report.pages import (
    Bold,
    Section,
    Shown,
    csv_table,
    html_page,
    html_picture,
    html_section,
    html_table,
    markdown_picture,
    markdown_section,
    markdown_table,
)
from bacl_platform.store.disk import disk_errors
from bacl_platform.store.names import CHECKPOINT
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def as_json(report: Report) -> dict[str, Any]:
    """Fractions as lvis-api gives them: means over seeds, and each seed; null for no category."""
    seeds: dict[str, dict[str, Any]] = {}
    keys: dict[str, dict[str, str | None]] = {}
    for result in report.results:
        seeds.setdefault(str(result.seed), {})[result.variant] = result.metrics
        keys.setdefault(str(result.seed), {})[result.variant] = result.key
    return {
        "variants": {
            name: {metric: _mean(report.values(name, metric)) for metric in report.metrics}
            for name in report.variants
        },
        "seeds": seeds,
        "keys": keys,
        "features": {name: report.features(name) for name in report.variants},
        "evaluated_with": report.evaluated_with,
        "fixed_limits": report.cut,
        "evaluators": report.evaluators,
        "unfinished": [job.name for job in report.unfinished],
        "notes": report.notes,
    }


def _mean(values: list[float]) -> float | None:
    return mean(values) if values else None


# The table, once for the terminal, Markdown and HTML


@dataclass(frozen=True)
class Row:
    """A variant in points: texts by metric, and the metrics in which no other is better."""

    name: str
    seeds: int
    cells: dict[str, str]
    differences: dict[str, str]
    """Empty for the baseline, and where there is none."""
    best: set[str]
    features: Fidelity


def rows(report: Report) -> list[Row]:
    """The variants' means and standard deviations over seeds, as they are shown.

    The best are found among exact rows and among replayed ones, where there are several of a kind,
    and for AP-Fixed among those that were cut alike.
    """
    shown: dict[_Kind, list[float]] = {}
    for name, metric in product(report.variants, report.metrics):
        if values_of := report.values(name, metric):
            shown.setdefault(_kind(report, name, metric), []).append(_points(values_of))
    best = {
        kind: (min if lower_is_better(kind[1]) else max)(points) for kind, points in shown.items()
    }
    if report.experiment is None:  # one file, which is the best of nothing
        best = {}
    if report.replayed:  # else a lone stage 1 beside replayed classifiers would be the best exact
        best = {place: points for place, points in best.items() if len(shown[place]) > 1}
    made = []
    for name in report.variants:
        values = {metric: report.values(name, metric) for metric in report.metrics}
        differences = {metric: report.differences(name, metric) for metric in report.metrics}
        made.append(
            Row(
                name,
                len(report.of(name)),
                {metric: _text(v) for metric, v in values.items()},
                {metric: _text(d, "+") for metric, d in differences.items()}
                if any(differences.values())
                else {},
                {
                    m
                    for m, v in values.items()
                    if v and _points(v) == best.get(_kind(report, name, m))
                },
                report.features(name),
            )
        )
    return made


_Kind = tuple[Fidelity, str, int | None]
"""What rows are trained on, a metric, and the limit per image of what it is of."""


def _kind(report: Report, name: str, metric: str) -> _Kind:
    return report.features(name), metric, report.of(name)[0].limit(metric)


def _points(values: list[float]) -> float:
    """The mean in points as it is shown; never -0.0."""
    return round(100 * mean(values), 1) + 0.0


def _text(values: list[float], sign: str = "") -> str:
    if not values:
        return "–"
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{_points(values):{sign}.1f}{spread}"


def legend(report: Report) -> str:
    """What the numbers are, in a sentence or two."""
    legend = "AP in points"
    seeds = len({result.seed for result in report.results})
    if seeds > 1:
        legend += f", mean ± standard deviation over {seeds} seeds"
    sizes = Counter(category["frequency"] for category in report.results[0].categories)
    groups = report.prepared.groups
    ranges = [f" ({counts})" if groups != Groups() else "" for counts in groups.ranges]
    sizes_of_groups = [
        f"{sizes[name]} {word}{counts}"
        for (name, word), counts in zip(report.groups.items(), ranges, strict=True)
    ]
    return f"{legend}; categories: {', '.join(sizes_of_groups)}."


def _columns(report: Report) -> dict[str, dict[str, str]]:
    """Columns that say how rows came about, where there is something to say: a cell for each
    variant."""
    found: dict[str, dict[str, str]] = {}
    if report.replayed:
        found["features"] = {name: report.features(name) for name in report.variants}
    if with_ := report.evaluated_with:
        found["evaluated with"] = {name: with_.get(name, "–") for name in report.variants}
    return found


def _notes(report: Report, command: str) -> Iterator[str]:
    """What keeps the table from being the whole comparison, one sentence each."""
    if report.unfinished:
        names = ", ".join(job.name for job in report.unfinished)
        yield f"Not in the store yet: {names}. `{command}` runs what is missing."
    if report.replayed:
        exact = len(report.replayed) < len(report.variants)
        others = " Differences and what is best are among rows of one kind." if exact else ""
        yield (
            f"Replayed, not exact: {', '.join(report.replayed)}. They were trained on stored "
            f"features; an exact run gives nearly the same, not the same.{others}"
        )
    if with_ := report.evaluated_with:
        said = "; ".join(f"{name} with {words}" for name, words in with_.items())
        yield f"Evaluated in other ways than usual: {said}."
    if len(report.evaluators) > 1:
        said = "; ".join(
            f"{e['name']} {e['version']} on {e['ground_truth_sha256'][:12]}"
            for e in report.evaluators
        )
        yield f"Not all rows compare, for they were evaluated differently: {said}."
    yield from report.notes


def table(report: Report, metrics: list[str]) -> "Table":
    """For the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = rows(report)
    unequal = len({row.seeds for row in made}) > 1
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    shown.add_column("variant", overflow="fold")
    if unequal:
        shown.add_column("seeds", justify="right", no_wrap=True)
    columns = _columns(report)
    for name in columns:
        shown.add_column(f" {name}", overflow="fold", no_wrap=name == "features")
    for metric in metrics:
        shown.add_column(metric, justify="right", no_wrap=True)
    for row in made:
        cells: list[Text | str] = []
        for metric in metrics:
            is_best = metric in row.best
            text = row.cells[metric] + ("*" if is_best else " ")
            cell = Text(text.replace(" ± ", "±"), style="bold" if is_best else "")
            if row.differences:
                cell.append(
                    f"\n{row.differences[metric]} ".replace(" ± ", "±"), style="not bold dim"
                )
            cells.append(cell)
        kind = [f" {of[row.name]}" for of in columns.values()]
        shown.add_row(row.name, *([str(row.seeds)] if unequal else []), *kind, *cells)
    return shown


def print_tables(report: Report, console: "Console") -> None:
    """The tables of AP, of AP-Fixed and, where there are masks, of their AP."""
    for metrics in report.brief:
        comparison = table(report, metrics)
        if not console.is_terminal:  # a file or a pipe has no edge to wrap at
            needed = console.measure(comparison, options=console.options.update(width=1000))
            console.width = max(console.width, needed.maximum)
        console.print(comparison)


def print_report(report: Report, out: Path, store: Store, command: str, console: "Console") -> None:
    """The table, and where everything is."""
    print_tables(report, console)
    baseline = report.baseline
    compared = (
        f" Second lines: difference to {baseline}."
        if any(row.differences for row in rows(report))
        else ""
    )
    say(console, f"{legend(report)} * best.{compared}")
    for note in _notes(report, command):
        say(console, note)
    say(console, "")
    say(console, f"report:      {out / 'report.html'} (and report.md, per_category.csv, pictures)")
    for job in report.finished:
        if not job.variants:
            continue
        names = ",".join(job.variants)
        names = f"{{{names}}}" if len(job.variants) > 1 else names
        say(
            console,
            f"checkpoints: {store.entry(job.key)}/variants/{names}/{CHECKPOINT} ({job.name})",
        )
    say(console, f"runs:        bacl ui --store {store.url}")


# The files


def write(report: Report, out: Path, command: str, sections: Sequence[Section] = ()) -> None:
    """Fill the folder `out` with report.md, report.html, per_category.csv and pictures (PNG).

    sections: more to show before the checkpoints, with pictures of their own.

    Raises RunError where the disk is full or the folder cannot be written.
    """
    from bacl_platform.report.plots.registry import Page, shown

    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        pictures = shown(Page.RESULTS, report)
        of_sections = (picture for section in sections for picture in section.pictures)
        for picture in (*pictures, *of_sections):
            (out / picture.file).write_bytes(picture.content)
        texts = {
            "per_category.csv": per_category(report),
            "report.md": markdown(report, pictures, command, sections),
            "report.html": html(report, pictures, command, sections),
        }
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8", newline="")


def per_category(report: Report) -> str:
    """CSV: a row for each category, a column with the mean over seeds for each variant and each
    metric that categories have, AP first."""
    facts = ["id", "name", "frequency", "image_count", "instance_count"]
    columns = [(kind, name) for kind in report.columns for name in report.variants]
    marks = {
        name: (" (replayed)" if name in report.replayed else "")
        + (f" ({report.evaluated_with[name]})" if name in report.evaluated_with else "")
        for name in report.variants
    }
    body = []
    for label, category in enumerate(report.results[0].categories):
        of_seeds = [[r.categories[label].get(k) for r in report.of(name)] for k, name in columns]
        means = [_mean([ap for ap in aps if ap is not None]) for aps in of_seeds]
        body.append([*(category[fact] for fact in facts), *means])
    return csv_table([*facts, *(f"{kind} {name}{marks[name]}" for kind, name in columns)], body)


def summary(report: Report, command: str, rows_at_most: int) -> str:
    """The tables, best variants first, and notes in Markdown; of more variants than so many, the
    best."""
    made = rows(report)
    left = len(made) - rows_at_most
    made.sort(key=lambda row: -mean(report.values(row.name, report.metrics[0]) or [-1]))
    lines = []
    for head, body in _tables(report, made[:rows_at_most]):
        lines += [*markdown_table(head, body), ""]
    lines += [f"{left} more are in the report.", ""] if left > 0 else []
    lines += [legend(report), ""]
    for note in _notes(report, command):
        lines += [note, ""]
    return "\n".join(lines)


def _tables(report: Report, made: Sequence[Row]) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Head and rows of the tables of all metrics."""
    columns = _columns(report)
    for metrics in report.tables:
        body = [
            [
                row.name,
                str(row.seeds),
                *(of[row.name] for of in columns.values()),
                *(Bold(row.cells[m]) if m in row.best else row.cells[m] for m in metrics),
            ]
            for row in made
        ]
        yield ["variant", "seeds", *columns, *metrics], body


def markdown(
    report: Report, pictures: Sequence[Shown], command: str, sections: Sequence[Section] = ()
) -> str:
    """The report for a README or an issue; pictures are links to files beside it."""
    made = rows(report)
    lines = [f"# {texts.markdown(report.name)}", "", legend(report), ""]
    for head, body in _tables(report, made):
        lines += [*markdown_table(head, body), ""]
    if any(row.differences for row in made):
        lines += [f"Difference to {report.baseline}, seed by seed:", ""]
        for metrics in report.tables:
            differences = [
                [row.name, *(row.differences[m] for m in metrics)]
                for row in made
                if row.differences
            ]
            lines += [*markdown_table(["variant", *metrics], differences), ""]
    for note in _notes(report, command):
        lines += [note, ""]
    for picture in pictures:
        lines += markdown_picture(picture)
    for section in sections:
        lines += markdown_section(section)
    if checkpoints := _checkpoints(report):
        lines += ["## Checkpoints", "", *markdown_table(_CHECKPOINT_HEAD, checkpoints), ""]
    lines.append(_provenance(report))
    return "\n".join(lines) + "\n"


_CHECKPOINT_HEAD = ["variant", "seed", "key", "file"]


def _checkpoints(report: Report) -> list[list[str]]:
    return [
        [r.variant, str(r.seed), r.key, str(r.checkpoint)]
        for r in report.results
        if r.key is not None
    ]


def _provenance(report: Report) -> str:
    said = "; ".join(
        f"{e['name']} {e['version']}, ground truth SHA-256 {e['ground_truth_sha256']}"
        for e in report.evaluators
    )
    return f"Evaluated by {said}."


def html(
    report: Report,
    pictures: Sequence[Shown],
    command: str,
    sections: Sequence[Section] = (),
) -> str:
    """The report as one page that needs no other file."""
    made, columns = rows(report), _columns(report)
    compared = any(row.differences for row in made)
    second = f" Second lines: difference to {report.baseline}." if compared else ""
    best = " <b>Bold</b>: best." if report.experiment else ""
    body = [
        f"<p>{texts.html(legend(report))}{best}{texts.html(second)}</p>",
        *(
            html_table(
                ["variant", "seeds", *columns, *metrics],
                [
                    [
                        texts.html(row.name),
                        str(row.seeds),
                        *(of[row.name] for of in columns.values()),
                        *(_html_cell(row, m) for m in metrics),
                    ]
                    for row in made
                ],
            )
            for metrics in report.tables
        ),
        *(f"<p>{texts.html(note)}</p>" for note in _notes(report, command)),
    ]
    for picture in pictures:
        body += html_picture(picture)
    for section in sections:
        body += html_section(section)
    if checkpoints := [[texts.html(cell) for cell in cells] for cells in _checkpoints(report)]:
        body += ["<h2>Checkpoints</h2>", html_table(_CHECKPOINT_HEAD, checkpoints, "left")]
    body.append(f"<p>{texts.html(_provenance(report))}</p>")
    return html_page(report.name, body)


def _html_cell(row: Row, metric: str) -> str:
    text = f"<b>{row.cells[metric]}</b>" if metric in row.best else row.cells[metric]
    return text + (f"<small>{row.differences[metric]}</small>" if row.differences else "")
