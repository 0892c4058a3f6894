"""The terminal, or the file or pipe in its place: lines and progress as they are shown there."""

import os
import time
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

import rich.console
from rich import progress

from bacl_platform.volume import Volume, volume

SECONDS_BETWEEN_LINES = 15
"""Seconds between lines of progress, where the output is no terminal."""


class Console(rich.console.Console):
    """A console that shows texts as they are.

    Rich's own takes brackets in names for styles (`[bold]`) and words between colons for pictures.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})


def say(console: rich.console.Console, line: str) -> None:
    """Print a line as it is: in no colours of its own, and not wrapped at the terminal's edge."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def remark(console: rich.console.Console, line: str) -> None:
    """Print a line that is no result, warning or error: with --quiet it is left out."""
    if volume() is not Volume.QUIET:
        say(console, line)


class _Speed(progress.ProgressColumn):
    """How many are done a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: progress.Task) -> str:
        speed = task.finished_speed or task.speed
        return f"{speed:.1f} {self.unit}/s" if speed else ""


def shows_bars(console: rich.console.Console) -> bool:
    """Whether progress is shown by bars: on a terminal, and in a notebook that has widgets.

    Not with --quiet, and not in a file or pipe that FORCE_COLOR gives colours.
    """
    if volume() is Volume.QUIET:
        return False
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    if os.environ.get("FORCE_COLOR") and not console.file.isatty():
        return False
    return console.is_terminal


class Watching(AbstractContextManager[Any]):
    """Shows progress: a bar where there can be one, else a line now and then."""

    def __init__(self, console: rich.console.Console, unit: str = "bytes") -> None:
        self.console = console
        self._last_line = time.monotonic()
        self._tasks: dict[str, progress.TaskID] = {}
        amount = (
            [progress.DownloadColumn(), progress.TransferSpeedColumn()]
            if unit == "bytes"
            else [progress.MofNCompleteColumn(), _Speed(unit)]
        )
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            *amount,
            progress.TimeRemainingColumn(),
            console=console,
            disable=not shows_bars(console),
            transient=True,
        )

    def __enter__(self) -> "Watching":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """One event, in a line of its own; not with --quiet."""
        remark(self.console, text)

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if shows_bars(self.console):
            if what not in self._tasks:
                for task in self._tasks.values():  # one thing is done at a time
                    self._bars.remove_task(task)
                self._tasks = {what: self._bars.add_task(what, total=total)}
            self._bars.update(self._tasks[what], completed=done, total=total)
            return
        pause = 1 if volume() is Volume.VERBOSE else SECONDS_BETWEEN_LINES
        if time.monotonic() - self._last_line > pause:
            self._last_line = time.monotonic()
            self.say(f"{what}: {done:,} of {total:,}" if total else f"{what}: {done:,}")
