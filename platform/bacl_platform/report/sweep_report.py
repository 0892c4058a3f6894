"""The table of a sweep's trials, read from the store, beside the paper's where they repeat it."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from bacl_platform.plan.judged import notes, prepared_of
from bacl_platform.plan.population import Move
from bacl_platform.plan.screening import agreement
from bacl_platform.plan.sweep_memory import failed_before, result_of, stopped_before
from bacl_platform.plan.sweep_plan import Cell, SweepPlan
from bacl_platform.plan.trials import Point, SweepFile, plain
from bacl_platform.report.result_table.mixture import mixture
from bacl_platform.report.result_table.paper_data import why_unlike
from bacl_platform.report.result_table.rows import PaperTable, ResultTable, Row
from bacl_platform.spec.paper_table import Published, published
from bacl_platform.spec.space import Axis
from bacl_platform.spec.sweep import Sweep
from bacl_platform.store.names import MOVES
from bacl_platform.store.store import Store

_LOG_RATIO = 30
"""A list of positive numbers whose largest is so many times the smallest is spaced by factors."""


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
    sweep = plan.file.sweep
    theirs = printed(plan.file) if with_paper else None
    stopped, failed = set(stopped_before(plan, store)), failed_before(plan, store)
    exact = {} if confirmed is None else _seeds(confirmed, store, set(), None)
    screened = sweep.screen is not None
    rows = []
    for point, ours in _seeds(plan, store, stopped, failed).items():
        cell, more = ours.cells[0], exact.get(point, _Seeds())
        state = [_counted(ours.open)] if ours.open else []
        state += [_counted([f"{one} exactly" for one in more.open])] if more.open else []
        ended = sweep.competes and not ours.open
        rows.append(
            Row(
                dict(point),
                ", ".join(state) or "done",
                ours.points,
                _theirs(theirs, point),
                ours.error,
                _ended(ours.cells[-1], store) if ended else {},
                ours.done,
                cell.trial.features,
                ", ".join(cell.job.recipe.evaluated_with),
                more.points,
                dict(zip(cell.trial.varied, cell.trial.values.values(), strict=True)),
            )
        )
    digests = {cell.job.dataset_digest for cell in plan.cells}
    prepared = {digest: prepared_of(digest, store) for digest in digests}
    of_cells = [(c.trial.experiment, prepared[c.job.dataset_digest]) for c in plan.cells]
    said = notes(of_cells)
    if screened:
        said = [*_of_screening(plan, confirmed is not None), *said]
    elif with_paper:
        said = [*mixture(plan.file.path, rows, mixed), *said]
    paper = None
    if theirs is not None:
        unlike = (why_unlike(theirs, experiment.dataset, data) for experiment, data in of_cells)
        paper = PaperTable(theirs.title, theirs.rows, next(filter(None, unlike), ""))
    groups = [name for data in prepared.values() for name in data.groups.names]
    return ResultTable(
        sweep.name,
        list(dict.fromkeys(name for row in rows for name in (*row.found, *row.exact, *row.paper))),
        rows,
        sweep.metric,
        sweep.mode,
        list(dict.fromkeys(groups)),
        paper,
        said,
        screened,
        None if confirmed is None else agreement(plan, confirmed, store),
        _logarithmic(sweep, rows),
    )


@dataclass
class _Seeds:
    """What there is of one trial, over its seeds."""

    cells: list[Cell] = field(default_factory=list)
    points: dict[str, dict[int, float]] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    """Why seeds have no result, a word for each."""
    error: str = ""

    @property
    def done(self) -> int:
        return len(self.cells) - len(self.open)


def _seeds(
    plan: SweepPlan, store: Store, stopped: set[str], failed: dict[str, str] | None
) -> dict[Point, _Seeds]:
    """What the store has of each trial. failed: errors by key; None reads the plan's own."""
    failed = failed_before(plan, store) if failed is None else failed
    made: dict[Point, _Seeds] = {}
    for cell in plan.cells:
        its = made.setdefault(cell.trial.point, _Seeds())
        its.cells.append(cell)
        if store.complete(cell.job.key):
            for name, value in result_of(cell, store).items():
                if math.isfinite(value):  # an entry of long ago may say NaN for no category
                    its.points.setdefault(name, {})[cell.seed] = 100 * value
            continue
        if cell.key in failed:
            its.error = its.error or failed[cell.key]
        its.open.append(
            "failed" if cell.key in failed else "stopped" if cell.key in stopped else "to run"
        )
    return made


def _counted(states: list[str]) -> str:
    """`2 failed, 1 to run`."""
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _of_screening(plan: SweepPlan, known: bool) -> list[str]:
    """What the columns of a sweep that screens are, in a sentence."""
    screen = plan.file.sweep.screen
    assert screen is not None
    best = f"the best {screen.confirm} by {plan.file.sweep.metric}"
    then = f"{best} were chosen to train exactly" if known else f"{best} train exactly after that"
    views = f"{screen.views} view{'' if screen.views == 1 else 's'} of each image"
    return [f"Replayed: trained on stored features, {views}; {then}."]


def _ended(cell: Cell, store: Store) -> dict[str, str]:
    """The last values of a member of a population."""
    evaluations = json.loads((store.entry(cell.job.key) / MOVES).read_text(encoding="utf-8"))
    moves = [Move(*move) for row in evaluations for move in row["moves"]]
    last = [move.values for move in moves if move.member == cell.trial.variant]
    values = last[-1] if last else {}
    return {path: plain(value) for path, value in values.items()}


def printed(file: SweepFile) -> Published:
    """The paper's table; the values that a row is for are in short, as those of trials."""
    table = published(file.sweep.paper, file.path, "trial")
    rows = [
        ({str(field): plain(value) for field, value in trial.items()}, points)
        for trial, points in table.rows
    ]
    return Published(table.title, rows, table.dataset)


def _theirs(table: Published | None, point: Point) -> dict[str, float]:
    """The paper's points of a trial; empty where it prints none."""
    own = dict(point)
    rows = table.rows if table is not None else []
    return next((points for match, points in rows if match.items() <= own.items()), {})


def _logarithmic(sweep: Sweep, rows: list[Row]) -> set[str]:
    """Fields, by their short names, that are drawn or listed by factors."""
    spaced = [path for space in sweep.spaces for path, axis in space.items() if _by_factors(axis)]
    names = {name for row in rows for name in row.varied}
    return {n for n in names if any(path == n or path.endswith(f".{n}") for path in spaced)}


def _by_factors(axis: Axis) -> bool:
    values: list[Any] = axis.choice or []
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in values):
        return False
    listed = len(values) > 2 and max(values) >= _LOG_RATIO * min(values)
    return axis.loguniform is not None or listed
