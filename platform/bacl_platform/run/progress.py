"""What the driver shows while jobs run: bars on a terminal, else one line for each event."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich import progress
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bacl_platform.console import remark, shows_bars
from bacl_platform.plan.job import Job
from bacl_platform.plan.metric_names import owner
from bacl_platform.train.messages import Gathered, Lost
from bacl_platform.volume import Volume, volume

if TYPE_CHECKING:
    from bacl_platform.plan.sweep_plan import Cell

STATES = ("running", "waiting", "done", "stopped", "failed")
"""States of a sweep's trials."""


class Progress(AbstractContextManager[Any]):
    """Steps, loss and time left of the running jobs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._loss: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._tasks: dict[str, progress.TaskID] = {}
        self._waits: set[str] = set()
        """Keys of the jobs that were shown as waiting and have not started since."""
        self._told: dict[str, int] = {}
        """Steps that lines were printed of last, by key."""
        self._lost: dict[str, list[Lost]] = {}
        """What the interruptions of running jobs have cost, by key."""
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[state]}"),
            console=console,
        )
        self._live = Live(console=console, get_renderable=self._view, transient=True)

    def __enter__(self) -> "Progress":
        if shows_bars(self.console):
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """One event, in a line of its own; not with --quiet."""
        remark(self.console, text)

    def move(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """Scalars of a job have come in."""
        rows = [row for row in rows if "loss" in row]
        if rows:
            self._loss[job.key] = rows[-1]["loss"]
            self._seconds[job.key] = rows[-1]["time"] * (job.iterations - rows[-1]["step"])
            self._show(job, rows[-1]["step"], self._state(job).removeprefix(", "))
            if volume() is Volume.VERBOSE:
                self._tell(job, rows[-1]["step"])

    def begin(self, job: Job, step: int) -> None:
        """A job trains, from the beginning or from a checkpoint."""
        self._waits.discard(job.key)
        self._show(job, step, "")
        self.say(f"{job.name}: {f'goes on from {job.unit} {step}' if step else 'started'}")

    def gather(self, job: Job, message: Gathered) -> None:
        """A job's workers train; said where it may have more or fewer, or after an interruption."""
        said = []
        if job.resources.elastic:
            said.append(f"{message.workers} of {job.resources.span} workers")
        if message.lost is not None:
            self._lost.setdefault(job.key, []).append(message.lost)
            said.append(f"after an interruption: {message.lost}")
        if said:
            self.say(f"{job.name}: {', '.join(said)}")

    def wait(self, job: Job, text: str) -> None:
        """A job waits for something; where the output is no terminal, this is printed once."""
        if shows_bars(self.console):
            self._show(job, self._step(job), text)
        elif job.key not in self._waits:
            self.say(f"{job.name}: {text}")
        self._waits.add(job.key)

    def checkpoint(self, job: Job, step: int) -> None:
        """A checkpoint is on the disk; without a terminal, only this shows progress."""
        if job.kind == "features":
            self._show(job, step, "shards")
        elif step == job.iterations:
            self._show(job, step, "evaluating")
        self._tell(job, step)

    def _tell(self, job: Job, step: int) -> None:
        """How far a job is, in a line where the output is no terminal; once for each step."""
        if not shows_bars(self.console) and self._told.get(job.key) != step:
            self._told[job.key] = step
            self.say(f"{job.name}: {job.unit} {step}/{job.iterations}{self._state(job)}")

    def end(self, job: Job, text: str) -> None:
        """A job is done or has failed."""
        if job.key in self._tasks:
            self._bars.remove_task(self._tasks.pop(job.key))
        lost = self._lost.pop(job.key, [])
        times = f"{len(lost)} interruption{'' if len(lost) == 1 else 's'}"
        whole = f", after {times}: {sum(lost, Lost())}" if lost else ""
        self.say(f"{job.name}: {text}{whole}")

    def skip(self, job: Job) -> None:
        """A job is not run, because what it starts from has failed."""

    def _state(self, job: Job) -> str:
        if job.key not in self._loss:
            return ""
        return f", loss {self._loss[job.key]:.3f}, {self._time(job)} left"

    def _time(self, job: Job) -> str:
        """In words, how long a job that has logged will train yet."""
        seconds = self._seconds[job.key]
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"

    def _step(self, job: Job) -> int:
        """The step that a job's bar shows."""
        own = self._tasks.get(job.key)
        return next((int(task.completed) for task in self._bars.tasks if task.id == own), 0)

    def _view(self) -> RenderableType:
        """What stands below the events on a terminal."""
        return self._bars

    def _show(self, job: Job, step: int, state: str) -> None:
        if job.key not in self._tasks:
            self._tasks[job.key] = self._bars.add_task(job.name, total=job.iterations, state="")
        self._bars.update(self._tasks[job.key], completed=step, state=state)


@dataclass
class _Row:
    """What is known of a trial."""

    cell: "Cell"
    metric: str
    sign: int
    """-1 where less of the metric is better."""
    state: str
    step: int = 0
    score: float | None = None
    loss: float | None = None

    @property
    def label(self) -> str:
        return f"{self.cell.trial.label} seed {self.cell.seed}"

    @property
    def over(self) -> bool:
        return self.state not in ("waiting", "running")

    @property
    def rank(self) -> tuple[bool, float, int]:
        """Sorts the best first, and those without an evaluation last."""
        score = 0.0 if self.score is None else -self.sign * self.score
        return self.score is None, score, STATES.index(self.state)


class TrialProgress(Progress):
    """Progress of sweeps: their jobs and, on a terminal, a table of trials, the best first."""

    def __init__(self, console: Console) -> None:
        self._rows: dict[str, _Row] = {}  # by the cells' keys; first, as the base asks for the view
        super().__init__(console)

    def add(
        self,
        cells: Iterable["Cell"],
        metric: str = "AP",
        mode: Literal["max", "min"] = "max",
        results: Mapping[str, Mapping[str, float]] | None = None,
        left: Mapping[str, str] | None = None,
    ) -> None:
        """Cells to show, and the metric that they compete for.

        results: final metrics of the cells that are done, by their keys. left: `stopped` or
        `failed`, for those that ended without a result in an earlier run; they are not announced.
        """
        results, left = results or {}, left or {}
        for cell in cells:
            known = self._rows.get(cell.key)
            if known is not None and known.state != "failed":
                continue
            row = _Row(cell, metric, 1 if mode == "max" else -1, left.get(cell.key, "waiting"))
            if cell.key in results:
                row.state, row.step = "done", cell.job.iterations
                row.score = results[cell.key].get(metric)
            self._rows[cell.key] = row

    def begin(self, job: Job, step: int) -> None:
        for row in self._of(job):
            row.state, row.step = "running", step
        super().begin(job, step)

    def move(self, job: Job, rows: list[dict[str, Any]]) -> None:
        super().move(job, rows)
        losses: dict[str, float] = {}
        for name, value in next((row for row in reversed(rows) if "loss" in row), {}).items():
            variant, what = owner(name, job)
            if variant is not None and what.split(".")[-1] == "loss_cls":
                key = job.variant_keys[variant]
                losses[key] = losses.get(key, 0) + value  # a cascade has one for each stage
        for row in self._of(job) if rows else []:
            row.step = rows[-1]["step"]
            row.loss = losses.get(row.cell.key, row.loss)

    def end(self, job: Job, text: str) -> None:
        super().end(job, text)
        for row in self._of(job):
            row.state = text if text in STATES else "stopped"
            row.step = job.iterations if text == "done" else row.step
        if text == "failed":
            self.skip(job)

    def skip(self, job: Job) -> None:
        for row in self._rows.values():
            if job.key in (row.cell.job.key, row.cell.job.parent) and not row.over:
                row.state = "failed"

    def evaluated(self, found: dict[str, dict[str, float]]) -> None:
        """Evaluations of cells have come in, by their keys."""
        for key, metrics in found.items():
            row = self._rows.get(key)
            if row is None:
                continue
            row.score = metrics.get(row.metric, row.score)
            if not shows_bars(self.console):
                score = metrics.get(row.metric)
                shown = "evaluated" if score is None else f"{row.metric} {100 * score:.1f}"
                self.say(f"{row.label}: {shown} at step {metrics['step']:g}")

    def left(self, keys: Iterable[str], why: Literal["stopped", "failed"]) -> None:
        """Cells have left their bank, which may go on without them; each is announced once."""
        for key in keys:
            row = self._rows.get(key)
            if row is None or row.over:
                continue
            row.state = why
            if not shows_bars(self.console):
                self.say(f"{row.label}: {why}")

    def _of(self, job: Job) -> list[_Row]:
        """The trials of a job that have not left it."""
        rows = [self._rows.get(key) for key in job.variant_keys.values()]
        return [row for row in rows if row is not None and not row.over]

    def _view(self) -> RenderableType:
        rows = sorted(list(self._rows.values()), key=lambda row: row.rank)  # others add meanwhile
        # besides bars: the head, the line for what does not fit, and one for the newest event
        room = max(self.console.height - len(self._bars.tasks) - 3, 0)
        shown, hidden = rows[:room], rows[room:]
        if len(hidden) == 1:  # it has the line that would count it
            shown, hidden = rows, []
        parts: list[RenderableType] = [self._bars]
        if shown:
            parts.append(self._table(shown))
        if hidden:
            states = Counter(row.state for row in hidden)
            counts = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
            parts.append(_line(f"... and {len(hidden)} more: {counts}"))
        return Group(*parts)

    def _table(self, rows: list[_Row]) -> Table:
        metrics = {row.metric for row in self._rows.values()}
        sweeps = {row.cell.trial.experiment.name for row in self._rows.values()}
        seeds = {row.cell.seed for row in self._rows.values()}
        table = Table("trial", box=None, pad_edge=False)
        table.add_column("state", no_wrap=True)
        for name in ("step", " or ".join(sorted(metrics)), "loss", "left"):
            table.add_column(name, no_wrap=True, justify="right")
        for row in rows:
            sweep = f"{row.cell.trial.experiment.name}: " if len(sweeps) > 1 else ""
            label = row.label if len(seeds) > 1 else row.cell.trial.label
            metric = f"{row.metric} " if len(metrics) > 1 else ""
            job = row.cell.job
            table.add_row(
                _line(f"{sweep}{label}"),
                row.state,
                f"{row.step}/{job.iterations}",
                "" if row.score is None else f"{metric}{100 * row.score:.1f}",
                "" if row.loss is None else f"{row.loss:.3f}",
                self._time(job) if row.state == "running" and job.key in self._seconds else "",
            )
        return table


def _line(text: str) -> Text:
    """Text that a narrow terminal cuts, so that it stays one line."""
    return Text(text, no_wrap=True, overflow="ellipsis")
