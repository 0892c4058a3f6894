"""Tables of a sweep's trials by their values, or of an experiment's variants by their names, beside
the paper's numbers where those are repeated.

Everything is read from the store; values are points (AP times 100).
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from bacl.errors import UsageError
from bacl.metric_names import kind_of
from bacl_platform import texts
from bacl_platform.console import say
from bacl_platform.plan.job import Fidelity
from bacl_platform.plan.judged import notes, prepared_of
from bacl_platform.plan.population import Move
from bacl_platform.plan.screening import Agreement, agreement
from bacl_platform.plan.sweep_memory import failed_before, result_of, stopped_before
from bacl_platform.plan.sweep_plan import Cell, SweepPlan
from bacl_platform.plan.trials import Point, SweepFile, plain
from bacl_platform.report.pages import csv_table, html_page, html_table, latex_table, markdown_table
from bacl_platform.spec.paper_table import published
from bacl_platform.spec.sweep import Sweep
from bacl_platform.store.disk import disk_errors
from bacl_platform.store.names import MOVES
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console

    from bacl_platform.analysis.results import Report

RESAMPLES = 10_000
_USUAL = {"seeds": {"1"}, "state": {"done"}}
_WORDS = ("features", "evaluated with")
LEAST_SEEDS = 3
"""Seeds from which on an interval says anything."""


@dataclass(frozen=True)
class Row:
    """One trial, or variant, over its seeds."""

    varied: dict[str, str]
    state: str
    """`done`, or what is the matter with how many of its seeds."""
    found: dict[str, list[float]]
    """Points by metric, one for each finished seed."""
    paper: dict[str, float]
    """The paper's points by metric; empty without."""
    error: str = ""
    ended: dict[str, str] = field(default_factory=dict)
    """Last values of a trial whose values changed while it trained."""
    seeds: int = 0
    """How many are finished."""
    features: Fidelity | None = "exact"
    """What `found` is trained on; None where there is nothing found to be."""
    evaluated_with: str = ""
    """Averaged weights, several views or soft suppression, in words; empty without."""
    exact: dict[str, list[float]] = field(default_factory=dict)
    """Points of the same trial trained exactly, where a sweep confirms what it screened."""


@dataclass(frozen=True)
class ResultTable:
    """What a sweep or an experiment has found so far."""

    name: str
    title: str
    metrics: list[str]
    rows: list[Row]
    with_paper: bool
    notes: list[str] = field(default_factory=list)
    """What else is to be known of the points, in sentences."""
    screened: bool = False
    """Whether all rows are replayed, and some are exact as well."""
    agreement: Agreement | None = None
    """How the two agree, where there are any."""

    @property
    def marked(self) -> bool:
        """Whether rows say what they were trained on."""
        return any(row.features == "replay" for row in self.rows)

    @property
    def unlike(self) -> bool:
        """Whether rows say with what they were evaluated."""
        return any(row.evaluated_with for row in self.rows)

    @property
    def fields(self) -> list[str]:
        """The fields that vary, in the order of the space."""
        return list(dict.fromkeys(field for row in self.rows for field in row.varied))


def collect(
    plan: SweepPlan,
    store: Store,
    with_paper: bool,
    confirmed: SweepPlan | None = None,
    mixed: bool = False,
) -> ResultTable:
    """Read from the store what it has of a sweep.

    confirmed: of a sweep that screens, the trials that train exactly, once these are known. mixed:
    whether the paper's numbers may stand beside replayed ones. Raises UsageError where they may
    not and would, and where they are asked for and the sweep names no table.
    """
    stopped, failed = set(stopped_before(plan, store)), failed_before(plan, store)
    title, theirs = printed(plan.file) if with_paper else ("", [])
    by_trial: dict[Point, list[Cell]] = {}
    for cell in plan.cells:
        by_trial.setdefault(cell.trial.point, []).append(cell)
    screened = plan.file.sweep.screen is not None
    exact = {} if confirmed is None else _exact(confirmed, store)
    rows, metrics = [], {plan.file.sweep.metric: None}
    for varied, cells in by_trial.items():
        found: dict[str, list[float]] = {}
        states = []
        for cell in cells:
            if store.complete(cell.job.key):
                states.append("done")
                for name, value in result_of(cell, store).items():
                    found.setdefault(name, []).append(100 * value)
            else:
                states.append(
                    "failed"
                    if cell.key in failed
                    else "stopped"
                    if cell.key in stopped
                    else "to run"
                )
        metrics |= dict.fromkeys(name for name in found if kind_of(name) in ("AP", "mask_AP"))
        open_ = [state for state in states if state != "done"]
        numbers = [f"{open_.count(state)} {state}" for state in dict.fromkeys(open_)]
        also, left = exact.get(varied, ({}, []))
        numbers += [f"{left.count(state)} {state} exactly" for state in dict.fromkeys(left)]
        error = next((failed[cell.key] for cell in cells if cell.key in failed), "")
        own = dict(varied)
        paper = next((points for match, points in theirs if match.items() <= own.items()), {})
        metrics |= dict.fromkeys(paper)
        ended = _ended(cells[-1], store) if plan.file.sweep.competes and not open_ else {}
        done = states.count("done")
        kind, state_ = cells[0].trial.features, ", ".join(numbers) or "done"
        with_ = ", ".join(cells[0].job.recipe.evaluated_with)
        rows.append(Row(own, state_, found, paper, error, ended, done, kind, with_, also))
    said = notes(
        (cell.trial.experiment, prepared_of(cell.job.dataset_digest, store)) for cell in plan.cells
    )
    told = None if confirmed is None else agreement(plan, confirmed, store)
    if screened:
        said = [*_of_screening(plan, confirmed is not None), *said]
        said += [] if told is None else [told.sentence(plan.file.sweep.metric)]
    elif with_paper:
        said = [*_mixture(plan.file.path, rows, mixed), *said]
    table = ResultTable(plan.file.sweep.name, title, list(metrics), rows, with_paper, said)
    return replace(table, screened=screened, agreement=told)


def _exact(
    confirmed: SweepPlan, store: Store
) -> dict[Point, tuple[dict[str, list[float]], list[str]]]:
    """Points of confirmed trials by metric, and how each of their other seeds stands."""
    failed = failed_before(confirmed, store)
    made: dict[Point, tuple[dict[str, list[float]], list[str]]] = {}
    for cell in confirmed.cells:
        points, left = made.setdefault(cell.trial.point, ({}, []))
        if not store.complete(cell.job.key):
            left.append("failed" if cell.key in failed else "to run")
            continue
        for name, value in result_of(cell, store).items():
            points.setdefault(name, []).append(100 * value)
    return made


def _of_screening(plan: SweepPlan, known: bool) -> list[str]:
    """What the columns of a sweep that screens are, in a sentence."""
    screen = plan.file.sweep.screen
    assert screen is not None
    best = f"the best {screen.confirm} by {plan.file.sweep.metric}"
    then = f"{best} were chosen to train exactly" if known else f"{best} train exactly after that"
    views = f"{screen.views} view{'' if screen.views == 1 else 's'} of each image"
    return [f"Replayed: trained on stored features, {views}; {then}."]


def _mixture(file: Path, rows: Sequence[Row], mixed: bool) -> list[str]:
    """A sentence on rows that are replayed beside the paper's numbers, which are exact.

    Raises UsageError with it where there are such rows and they are not allowed.
    """
    both = [row for row in rows if row.paper and row.features == "replay"]
    if not both:
        return []
    replayed = [", ".join(row.varied.values()) for row in both]
    which = f"{'; '.join(replayed)}: replayed (trained on stored features)"
    if mixed:
        return [f"MIXED: the paper's numbers are exact, and not these of ours: {which}."]
    raise UsageError(
        f"{file}: {which}, while the paper's numbers are exact: run these with recipe.features: "
        "exact, or let --mixed set them beside each other all the same"
    )


def _ended(cell: Cell, store: Store) -> dict[str, str]:
    """The last values of a member of a population."""
    evaluations = json.loads((store.entry(cell.job.key) / MOVES).read_text(encoding="utf-8"))
    moves = [Move(*move) for row in evaluations for move in row["moves"]]
    last = [move.values for move in moves if move.member == cell.trial.variant]
    values = last[-1] if last else {}
    return {path: plain(value) for path, value in values.items()}


def printed(file: SweepFile) -> tuple[str, list[tuple[dict[str, str], dict[str, float]]]]:
    """Title and rows of the paper's table: the values that a row is for, and its points."""
    title, rows = published(file.sweep.paper, file.path, "trial")
    return title, [
        ({str(field): plain(value) for field, value in trial.items()}, points)
        for trial, points in rows
    ]


def beside_paper(report: "Report", file: Path, mixed: bool = False) -> ResultTable:
    """An experiment's variants beside the paper's rows of the same names, in the paper's order.

    Rows that the experiment lacks are there as well, and variants that the paper lacks come last.
    Of the metrics, those that the paper prints. file: the experiment's. mixed: whether the paper's
    numbers may stand beside replayed ones. Raises UsageError where they may not and would, and
    where the experiment names no table, or one that is not there.
    """
    assert report.experiment is not None
    title, rows = published(report.experiment.paper, file, "variant")
    theirs = dict(rows)
    metrics = list(dict.fromkeys(name for points in theirs.values() for name in points))
    to_run = Counter(name for job in report.unfinished for name in job.variants)
    own = [*report.variants, *to_run]
    made = []
    for name in dict.fromkeys([*theirs, *own]):
        found = {metric: [100 * v for v in report.values(name, metric)] for metric in metrics}
        state = f"{to_run[name]} to run" if to_run[name] else "done" if name in own else "-"
        seeds = len(report.of(name))
        kind = report.features(name) if name in report.variants else None
        paper = theirs.get(name, {})
        row = Row({"variant": name}, state, found, paper, seeds=seeds, features=kind)
        made.append(replace(row, evaluated_with=report.evaluated_with.get(name, "")))
    said = [*_mixture(file, made, mixed), *report.notes]
    return ResultTable(report.name, title, metrics, made, True, said)


def interval(values: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (S,), by percentiles of resampled means."""
    draw = np.random.default_rng(0)
    sample = np.asarray(values)
    means = sample[draw.integers(len(sample), size=(RESAMPLES, len(sample)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _shown(values: list[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    spread = f"{mean(values):.1f} ± {stdev(values):.1f}"
    if len(values) < LEAST_SEEDS:
        return spread
    low, high = interval(values)
    return f"{spread} [{low:.1f}, {high:.1f}]"


def cells_of(table: ResultTable) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table as text."""
    shown = [m for m in table.metrics if any(m in r.found or m in r.paper for r in table.rows)]
    head = [*table.fields, "seeds", *(["features"] if table.marked else [])]
    head += ["evaluated with"] if table.unlike else []
    for metric in shown:
        head += [f"{metric} replayed", f"{metric} exact"] if table.screened else [metric]
        head += ["paper", "difference"] if table.with_paper else []
    head.append("state")
    lines = []
    for row in table.rows:
        line = [*(row.varied.get(field, "") for field in table.fields), str(row.seeds)]
        if table.marked:
            line.append(", ".join([row.features or "-", *(["exact"] if row.exact else [])]))
        if table.unlike:
            line.append(row.evaluated_with or "-")
        for metric in shown:
            values = row.found.get(metric, [])
            line.append(_shown(values))
            if table.screened:  # the paper's numbers are exact, and compared with such alone
                values = row.exact.get(metric, [])
                line.append(_shown(values))
            if table.with_paper:
                theirs = row.paper.get(metric)
                line.append("-" if theirs is None else f"{theirs:.1f}")
                both = values and theirs is not None
                line.append(f"{mean(values) - theirs:+.1f}" if both and theirs is not None else "-")
        changed = ", ".join(f"{path}={value}" for path, value in row.ended.items())
        lines.append([*line, row.error or (f"ended with {changed}" if changed else row.state)])
    return head, lines


def markdown(table: ResultTable) -> str:
    """The table in Markdown."""
    title = [texts.markdown(table.title), ""] if table.title else []
    lines = [f"# {texts.markdown(table.name)}", "", *title, *markdown_table(*cells_of(table))]
    for note in table.notes:
        lines += ["", texts.markdown(note)]
    return "\n".join(lines) + "\n"


def summary(table: ResultTable, sweep: Sweep, rows_at_most: int) -> str:
    """The table, best trials first, and notes in Markdown; of more trials than so many, the
    best."""
    sign = -1 if sweep.mode == "max" else 1
    points = [row.found.get(sweep.metric) for row in table.rows]
    order = sorted(
        range(len(points)), key=lambda n: (not points[n], sign * mean(points[n] or [0.0]))
    )
    head, lines = cells_of(table)
    shown = [lines[number] for number in order[:rows_at_most]]
    found = [*markdown_table(head, shown)]
    if len(lines) > rows_at_most:
        found += ["", f"{len(lines) - rows_at_most} more are in the report."]
    found += ["", "AP in points."]
    for note in table.notes:
        found += ["", texts.markdown(note)]
    return "\n".join(found) + "\n"


def latex(table: ResultTable) -> str:
    """The table as a LaTeX `tabular`."""
    head, lines = cells_of(table)
    marks = "l" * (table.marked + table.unlike)
    numbers = len(head) - len(table.fields) - len(marks) - 2
    columns = "l" * len(table.fields) + "r" + marks + "r" * numbers + "l"
    return "\n".join(latex_table(head, lines, columns)) + "\n"


def html(table: ResultTable) -> str:
    """The table as a page of its own."""
    head, lines = cells_of(table)
    cells = [[texts.html(cell) for cell in line] for line in lines]
    title = [f"<p>{texts.html(table.title)}</p>"] if table.title else []
    notes = [f"<p>{texts.html(note)}</p>" for note in table.notes]
    return html_page(table.name, [*title, html_table(list(map(texts.html, head)), cells), *notes])


def as_csv(table: ResultTable) -> str:
    """The table with one line for each trial."""
    return csv_table(*cells_of(table))


def write(table: ResultTable, folder: Path) -> None:
    """Write the table to a folder in all its forms."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, form in (("md", markdown), ("html", html), ("tex", latex), ("csv", as_csv)):
            (folder / f"table.{suffix}").write_text(form(table), encoding="utf-8", newline="")


def as_json(table: ResultTable) -> dict[str, Any]:
    """Points of every trial and seed, and the paper's."""
    found = {"sweep": table.name, "trials": rows_as_json(table), "notes": table.notes}
    if table.agreement is None:
        return found
    return {**found, "agreement": asdict(table.agreement)}


def rows_as_json(table: ResultTable) -> list[dict[str, Any]]:
    """Points of every row and seed, and the paper's."""
    return [
        {
            "varied": r.varied,
            "state": r.state,
            "features": r.features,
            "evaluated_with": r.evaluated_with,
            "points": r.found,
            "paper": r.paper,
            **({"exact": r.exact} if table.screened else {}),
        }
        for r in table.rows
    ]


def print_table(table: ResultTable, folder: Path, console: "Console") -> None:
    """Show the table, and where it was written."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    head, lines = cells_of(table)
    if table.screened:
        head, lines = _stacked(head, lines)
    columns = dict(zip(head, zip(*lines, strict=True), strict=False)) if lines else {}
    # Columns that say nothing take room on a terminal; the files have them.
    shown_columns = [
        place for place, name in enumerate(head) if set(columns.get(name, ())) != _USUAL.get(name)
    ]
    shown = Table(title=table.title or table.name, box=box.SIMPLE_HEAD, pad_edge=False)
    for place in shown_columns:
        text = place < len(table.fields) or place == len(head) - 1 or head[place] in _WORDS
        shown.add_column(head[place], justify="left" if text else "right", overflow="fold")
    for line in lines:
        shown.add_row(*(Text(line[place]) for place in shown_columns))
    console.print(shown)
    for note in table.notes:
        say(console, note)
    print_written(folder, console)


def _stacked(head: list[str], lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Cells of a sweep that screens, narrow enough for a terminal: exact points stand below
    replayed ones."""
    stacked = [name.removesuffix(" replayed") for name in head if not name.endswith(" exact")]
    made = []
    for line in lines:
        cells: list[str] = []
        for name, cell in zip(head, line, strict=True):
            if not name.endswith(" exact"):
                cells.append(cell.replace(", exact", "\nexact") if name == "features" else cell)
            elif cell != "-":
                cells[-1] += f"\n{cell}"
        made.append(cells)
    return stacked, made


def print_written(folder: Path, console: "Console") -> None:
    """Say where the table is."""
    say(console, f"written: {folder}/table.md, .html, .tex, .csv")
