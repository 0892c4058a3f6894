"""A sweep's plan as it is shown: trials, jobs, what is there already, and the cost."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bacl_platform.console import say
from bacl_platform.plan.cost import cost_of, duration, step_seconds
from bacl_platform.plan.job import Job
from bacl_platform.plan.judged import prepared_of
from bacl_platform.plan.show import state
from bacl_platform.plan.stored import stored_lines
from bacl_platform.plan.sweep_plan import SweepPlan
from bacl_platform.report.sweep_report import collect
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console


def print_sweep(
    plan: SweepPlan,
    store: Store,
    console: "Console",
    then: SweepPlan | None = None,
    known: bool = False,
) -> None:
    """Show what a sweep would run: its trials, what is there, what shares a trunk, the cost.

    then: of a sweep that screens, what trains exactly after that; known: whether these are the best
    trials already, or stand for them.
    """
    from rich.table import Table

    sweep = plan.file.sweep
    say(console, f"{sweep.name}: {_search(plan)}, store {store.url}")
    rows = collect(plan, store, False, then if known else None)
    jobs = {job.key: number for number, job in enumerate(plan.jobs, start=1)}
    trials = Table(*rows.fields, "state", "jobs")
    for row in rows.rows:
        own = {jobs[c.job.key] for c in plan.cells if c.trial.varied == row.varied}
        values = [row.varied.get(field, "") for field in rows.fields]
        trials.add_row(*values, row.state, ", ".join(map(str, sorted(own))))
    if rows.rows:
        console.print(trials)
    if then is not None:
        say(console, "screening, on stored features:")
    _print_jobs(plan.jobs, store, console)
    if then is not None:
        for line in _images(plan.jobs, store):
            say(console, line)
        count = len({cell.trial.point for cell in then.cells})
        which = "; ".join(dict.fromkeys(cell.trial.label for cell in then.cells))
        best = which if known else f"the best {count} by {sweep.metric}, about so much"
        say(console, f"then exactly: {best}:")
        more = [job for job in then.jobs if job.key not in jobs]
        _print_jobs(more, store, console)
        for line in _images(more, store):
            say(console, line)
    if sweep.stops and sweep.scheduler is not None:
        say(
            console,
            f"scheduler {sweep.scheduler.type}: which trials it stops early is not known in "
            "advance",
        )
    elif sweep.scheduler is not None:
        say(console, "scheduler pbt: which trials go on from which others is not known in advance")
    agreed = [] if rows.agreement is None else [rows.agreement.sentence(sweep.metric)]
    for note in [*rows.notes, *agreed]:
        say(console, note)


def _search(plan: SweepPlan) -> str:
    sweep = plan.file.sweep
    if sweep.search == "tpe":
        return (
            f"tpe proposes {sweep.samples} trials, each a job of its own; of {len(plan.cells)} "
            "it is known which, of the others not in advance"
        )
    trials = len({tuple(cell.trial.varied.items()) for cell in plan.cells})
    seeds = len({cell.seed for cell in plan.cells})
    return f"{sweep.search}, {trials} trials, {seeds} seed{'s' * (seeds != 1)}"


def _images(jobs: Sequence[Job], store: Store) -> Iterator[str]:
    """What jobs that the store lacks process and keep, in sentences."""
    missing = [job for job in jobs if not store.complete(job.key)]
    if missing:
        prepared = prepared_of(missing[0].dataset_digest, store)
        yield f"to run: {cost_of(missing, prepared.val.image_total)[0]}"
        yield from stored_lines(missing, prepared, store)


def _print_jobs(jobs: Sequence[Job], store: Store, console: "Console") -> None:
    """Show jobs, and what those that the store lacks cost."""
    from rich.table import Table

    table = Table("", "job", "key", "state", "steps", "variants", "estimate")
    seconds, finished = 0.0, store.descriptions()
    for number, job in enumerate(jobs, start=1):
        step = 0.0 if store.complete(job.key) else step_seconds(job, store, finished)
        estimate = None if step is None else step * job.iterations
        seconds += (estimate or 0.0) * job.resources.most
        shown = "unknown" if estimate is None else duration(estimate) if estimate else ""
        table.add_row(
            str(number),
            job.name,
            job.key,
            state(job, store),
            str(job.iterations),
            str(len(job.variants)),
            shown,
        )
    console.print(table)
    missing = [job for job in jobs if not store.complete(job.key)]
    steps = sum(job.iterations for job in missing if job.kind != "features")
    cost = f", about {duration(seconds)} of workers' time" if seconds else ""
    say(
        console,
        f"{len(jobs) - len(missing)} of {len(jobs)} jobs are in the store, "
        f"{len(missing)} to run: {steps} steps{cost}",
    )
