"""What goes on in a store, whoever started it."""

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bacl_platform.console import say
from bacl_platform.store import unfinished
from bacl_platform.store.drivers import drivers
from bacl_platform.store.names import JOB, SCALARS, failure_note
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Unfinished:
    """A job that has begun and has no entry yet."""

    name: str
    key: str
    variants: int
    workers: str
    """How many train it, or did, such as `2` or, of a range, `2 of 2-8`."""
    running: bool
    step: int
    steps: int
    loss: float | None
    seconds_left: float | None
    checkpoint: int | None
    quiet: float
    """Seconds since it last logged."""
    images_per_second: float | None
    failure: str | None
    """How it failed, if it did and was not started again."""
    unit: str
    """What steps and checkpoints count: `step`, or `shard` where features are stored."""


def unfinished_jobs(store: Store) -> list[Unfinished]:
    """The store's unfinished jobs, those that run first."""
    found = []
    for key in unfinished.keys(store):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if (description := unfinished.read(store, key, JOB)) is not None:
                found.append(_unfinished(store, key, json.loads(description)))
    return sorted(found, key=lambda job: (not job.running, job.name))


def _unfinished(store: Store, key: str, job: dict[str, Any]) -> Unfinished:
    lines = (unfinished.read(store, key, SCALARS) or "").splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    checkpoint = unfinished.newest_step(store, key)
    unit = "shard" if job.get("kind") == "features" else "step"
    last = rows[-1] if rows else {"step": (checkpoint or 0) if unit == "shard" else 0}
    steps = job["iterations"]
    seconds = last.get("time")
    return Unfinished(
        name=job["name"],
        key=key,
        variants=len(job["variants"]),
        workers=_workers(job),
        running=store.held(key),
        step=last["step"],
        steps=steps,
        loss=last.get("loss"),
        seconds_left=seconds * (steps - last["step"]) if seconds else None,
        checkpoint=checkpoint,
        quiet=unfinished.quiet(store, key),
        images_per_second=job["recipe"]["schedule"]["batch"] / seconds if seconds else None,
        failure=store.note(failure_note(key)),
        unit=unit,
    )


def _workers(job: dict[str, Any]) -> str:
    asked = job.get("resources", {}).get("workers", 1)
    now = job.get("workers")
    if isinstance(asked, int):
        return str(asked)
    span = "-".join(map(str, asked))
    return span if now is None else f"{now} of {span}"


def print_status(store: Store, console: "Console") -> None:
    """Show drivers and unfinished jobs."""
    from rich.table import Table

    for driver in drivers(store):
        where = "" if driver.here else f" on {driver.host}"
        say(console, f"process {driver.pid}{where} since {driver.started}: {driver.command}")
    jobs = unfinished_jobs(store)
    if not jobs:
        say(console, f"no unfinished jobs in {store.url}")
        return
    columns = ("job", "key", "variants", "workers", "state", "step", "loss", "images/s", "left")
    table = Table(*columns, "checkpoint")
    for job in jobs:
        state = f"running, logged {_ago(job.quiet)} ago"
        if not job.running:
            state = "interrupted" if job.failure is None else "failed: bacl logs"
        left = "" if job.seconds_left is None or not job.running else _ago(job.seconds_left)
        rate = job.images_per_second if job.running else None
        table.add_row(
            job.name,
            job.key,
            str(job.variants),
            job.workers,
            state,
            f"{job.step}/{job.steps}",
            "" if job.loss is None else f"{job.loss:.3f}",
            "" if rate is None else f"{rate:.3g}",
            left,
            "none yet" if job.checkpoint is None else f"{job.unit} {job.checkpoint}",
        )
    console.print(table)


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
