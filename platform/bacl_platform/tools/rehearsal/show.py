"""A rehearsal as it is shown: a table of its stages, the whole run, and what will break."""

from collections.abc import Iterator
from statistics import mean
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from bacl_platform.console import say
from bacl_platform.plan.rehearsed import Figures, in_words, interval
from bacl_platform.tools.rehearsal.advice import GIB, needs
from bacl_platform.tools.rehearsal.rehearse import Rehearsed, StageRehearsed

if TYPE_CHECKING:
    from rich.console import Console

_NONE = "-"
WAIT = 0.15
"""Share of a step's time from which waiting for data is pointed out."""


def print_rehearsal(found: Rehearsed, console: "Console") -> None:
    """Show the table, the forecast and the findings."""
    from rich.table import Table

    if not found.stages and not found.findings:
        total = len(found.plan.jobs)
        say(console, f"nothing to rehearse: {total} of {total} jobs are in the store")
        return
    if found.stages:
        cells = [dict(_cells(stage)) for stage in found.stages]
        table = Table("", *(stage.job.stage for stage in found.stages))
        for name in dict.fromkeys(name for one in cells for name in one):
            table.add_row(name, *(one.get(name, _NONE) for one in cells))
        console.print(table)
        say(console, "Memory is the most that a worker took, of what there was for it.")
    for line in (*_forecast(found), *_waits(found)):
        say(console, line)
    for finding in found.findings:
        say(console, f"will break: {finding}")
    if not found.findings:
        say(console, "nothing was found that a run would break of")


def _cells(stage: StageRehearsed) -> Iterator[tuple[str, str]]:
    """What is told of a stage, by what it is called."""
    job, figures = stage.job, stage.figures
    yield "workers", f"{job.resources.span} x ({job.resources.each})"
    if figures is None:
        yield "rehearsed", "failed"
        return
    for need in needs(job, figures):
        name = f"{need.kind} memory"
        yield name, f"{need.most / GIB:.2f} of {need.room / GIB:.2f} GiB"
    if pace := images_a_second(stage):
        yield "training", f"{pace:.3g} images/s"
    if (wait := data_wait(figures)) is not None:
        yield "waiting for data", f"{wait:.0%}"
    if figures.images:
        yield "evaluation", f"{figures.workers / mean(figures.images):.3g} images/s"
    if figures.checkpoint_bytes:
        size = decimal(figures.checkpoint_bytes)
        yield "checkpoint", f"{size} in {figures.checkpoint:.1f} s"
    yield "start and end", f"{figures.start + figures.end:.1f} s"
    yield "entry of a job", decimal(stage.jobs[0].bytes.entry)
    of = f"each of {len(stage.jobs)} jobs" if len(stage.jobs) > 1 else "whole job"
    yield "job", f"{in_words(interval(stage.jobs[0].seconds))}, {of}"


def images_a_second(stage: StageRehearsed) -> float | None:
    """Training images, or views that are stored, over all ranks; None of a stage without."""
    figures = stage.figures
    if figures is None or not figures.steps:
        return None
    if stage.job.kind == "features":
        return figures.workers / mean(figures.steps)
    return stage.job.recipe.schedule.batch / mean(figures.steps)


def data_wait(figures: Figures) -> float | None:
    """The share of a step that waits for images."""
    return sum(figures.waits) / sum(figures.steps) if figures.waits else None


def _waits(found: Rehearsed) -> Iterator[str]:
    """Stages whose steps wait for images, in sentences."""
    for stage in found.stages:
        wait = data_wait(stage.figures) if stage.figures else None
        if wait is not None and wait > WAIT:
            workers = stage.job.recipe.loader_workers
            change = f": more recipe.loader_workers than {workers} may help"
            yield (
                f"stage {stage.job.stage} waits for data {wait:.0%} of its time"
                + ("" if stage.job.replayed else change)
            )


def _forecast(found: Rehearsed) -> Iterator[str]:
    whole = found.forecast
    if whole is None:
        if found.stages:
            yield "no forecast of the whole run: not every stage could be rehearsed"
        return
    hours = ", ".join(
        f"{estimate:.3g} ({low:.3g} to {high:.3g}) {kind}-hours"
        for kind, (estimate, low, high) in whole.hours.items()
    )
    jobs = sum(len(stage.jobs) for stage in found.stages)
    yield (
        f"the whole run, {jobs} job{'' if jobs == 1 else 's'}: about {in_words(whole.seconds)}, "
        f"{hours}"
    )
    free = "a bucket" if found.disk_room is None else f"{decimal(found.disk_room)} free"
    yield (
        f"to the store: {decimal(whole.written)} written, {decimal(whole.peak)} at most at once, "
        f"{decimal(whole.left)} stays; {free}"
    )


def rows(found: Rehearsed) -> Iterator[dict[str, Any]]:
    """A row of plain values for each stage: seconds, bytes, shares."""
    for stage in found.stages:
        job, figures = stage.job, stage.figures
        row: dict[str, Any] = {
            "stage": job.stage,
            "kind": job.kind,
            "workers": job.resources.span,
            "rehearsed": figures is not None,
        }
        if figures is not None:
            for need in needs(job, figures):
                row |= {f"{need.kind.lower()}_bytes": round(need.most)}
                row |= {f"{need.kind.lower()}_room": round(need.room)}
            seconds = [interval(one.seconds) for one in stage.jobs]
            row |= {
                "images_a_second": images_a_second(stage),
                "data_wait": data_wait(figures),
                "step_seconds": mean(figures.steps) if figures.steps else None,
                "image_seconds": mean(figures.images) if figures.images else None,
                "checkpoint_bytes": figures.checkpoint_bytes,
                "entry_bytes": stage.jobs[0].bytes.entry,
                "jobs": len(stage.jobs),
                "seconds": [one[0] for one in seconds],
                "seconds_low": [one[1] for one in seconds],
                "seconds_high": [one[2] for one in seconds],
                "machine": figures.machine,
            }
        yield row


def as_json(found: Rehearsed) -> dict[str, Any]:
    """All of it as plain values."""
    whole = found.forecast
    forecast = None
    if whole is not None:
        estimate, low, high = whole.seconds
        forecast = {
            "seconds": estimate,
            "seconds_low": low,
            "seconds_high": high,
            "device_hours": {kind: each[0] for kind, each in whole.hours.items()},
            "bytes_written": whole.written,
            "bytes_at_once": whole.peak,
            "bytes_left": whole.left,
            "bytes_free": found.disk_room,
        }
    return {
        "stages": list(rows(found)),
        "forecast": forecast,
        "breaks": [
            {"sentence": finding.sentence, "changes": finding.changes} for finding in found.findings
        ],
    }
