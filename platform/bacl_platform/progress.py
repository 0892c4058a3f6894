"""What the driver shows while jobs run: bars on a terminal, else one line for each event."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from rich import progress
from rich.console import Console

from bacl_platform.plan import Job

if TYPE_CHECKING:
    from bacl_platform.sweep import Cell


class Progress(AbstractContextManager):
    """Steps, loss and time left of the running jobs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._loss: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._tasks: dict[str, progress.TaskID] = {}
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """One event, in a line of its own."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def move(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """Scalars of a job have come in."""
        rows = [row for row in rows if "loss" in row]
        if rows:
            self._loss[job.key] = rows[-1]["loss"]
            self._seconds[job.key] = rows[-1]["time"] * (job.iterations - rows[-1]["step"])
            self._show(job, rows[-1]["step"], self._state(job).removeprefix(", "))

    def begin(self, job: Job, step: int) -> None:
        """A job trains, from the beginning or from a checkpoint."""
        self._show(job, step, "")
        self.say(f"{job.name}: {f'goes on from step {step}' if step else 'started'}")

    def checkpoint(self, job: Job, step: int) -> None:
        """A checkpoint is on the disk; off a terminal this is where progress is told."""
        if step == job.iterations:
            self._show(job, step, "evaluating")
        if not self.console.is_terminal:
            self.say(f"{job.name}: step {step}/{job.iterations}{self._state(job)}")

    def end(self, job: Job, text: str) -> None:
        """A job is done or has failed."""
        if job.key in self._tasks:
            self._bars.remove_task(self._tasks.pop(job.key))
        self.say(f"{job.name}: {text}")

    def _state(self, job: Job) -> str:
        if job.key not in self._loss:
            return ""
        loss, seconds = self._loss[job.key], self._seconds[job.key]
        left = f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"
        return f", loss {loss:.3f}, {left}"

    def _show(self, job: Job, step: int, state: str) -> None:
        if job.key not in self._tasks:
            self._tasks[job.key] = self._bars.add_task(job.name, total=job.iterations, state="")
        self._bars.update(self._tasks[job.key], completed=step, state=state)


class TrialProgress(Progress):
    """The same for sweeps, and each trial's newest evaluation."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._labels: dict[str, str] = {}

    def add(self, cells: Iterable["Cell"]) -> None:
        """Cells to show."""
        self._labels |= {cell.key: f"{cell.trial.label} seed {cell.seed}" for cell in cells}

    def evaluated(self, found: dict[str, dict[str, float]]) -> None:
        """Evaluations of cells have come in, by their keys."""
        for key, row in found.items():
            if key in self._labels:
                shown = f"AP {100 * row['AP']:.1f}" if "AP" in row else "evaluated"
                self.say(f"{self._labels[key]}: {shown} at step {row['step']:g}")
