"""Runs sweeps: Ray Tune schedules trials, the platform's jobs train them, the store remembers.

A Tune trial trains nothing itself. It asks for the job that holds its cell, which the driver starts
as `bacl run` would, and waits for the cell's results from that job; so any number of trials can
train in one bank. One actor, which trials, driver and training workers call, holds the trials'
state.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bacl_platform.console import say
from bacl_platform.plan.job import Job, digest_of
from bacl_platform.plan.sweep_memory import Notes, failed_before, results_of, stopped_before
from bacl_platform.plan.sweep_plan import Preparation, SweepPlan, plan_sweeps
from bacl_platform.run.driver import Jobs
from bacl_platform.run.placement import beside_driver
from bacl_platform.run.progress import TrialProgress
from bacl_platform.run.ray_session import ray_for
from bacl_platform.store.store import Store
from bacl_platform.tracking.tracking import Tracking
from bacl_platform.tune.follower import Follower, SweepListener
from bacl_platform.tune.trainable import TrialContext
from bacl_platform.tune.trial_state import TrialStateActor
from bacl_platform.tune.tuner import fit

if TYPE_CHECKING:
    from rich.console import Console


def run_sweeps(
    plans: Sequence[SweepPlan],
    store: Store,
    prepare: Preparation,
    console: "Console",
    address: str | None = None,
    retry_failed: bool = False,
) -> None:
    """Run what the store lacks of sweeps.

    Their jobs run side by side as far as there is room; searches that adapt go one after the other.
    Raises RunError with a sentence for each job without a result; the others' results stay.
    """
    with ExitStack() as ending:
        trackings = [ending.enter_context(tracking_of(plan, store)) for plan in plans]
        for plan, tracking in zip(plans, trackings, strict=True):
            for job in plan.jobs:
                if store.complete(job.key):
                    tracking.finish(job, cached=True)
        if retry_failed:
            for plan in plans:
                Notes(plan, store, "failed").write({})
        failed = {key: why for plan in plans for key, why in failed_before(plan, store).items()}
        todo = {
            plan.file.sweep.name: (plan, tracking)
            for plan, tracking in zip(plans, trackings, strict=True)
            if plan.file.sweep.search == "tpe" or _left(plan, store)
        }
        if not todo:
            missing = {job.key for plan in plans for job in plan.missing(store)}
            jobs = [cell.job.key for plan in plans for cell in plan.cells]
            there = sum(key not in missing for key in jobs)
            say(console, f"nothing to do: {there} of {len(jobs)} trials are in the store")
            if failed:
                say(console, f"{len(failed)} failed before: run them again with --retry-failed")
            return
        running, own_trackings = zip(*todo.values(), strict=True)
        first = _before_proposals(running, prepare, store)
        asked = [job for plan in running for job in plan.missing(store)]
        asked += [job for plan in first for job in plan.jobs]
        ending.enter_context(ray_for(asked, address, console))
        progress = ending.enter_context(TrialProgress(console))
        parents = [
            job
            for plan in first
            for job in plan.missing(store)
            if job.key not in {cell.job.key for cell in plan.cells}
        ]
        _tune(running, parents, store, prepare, own_trackings, progress)


def _before_proposals(
    plans: Sequence[SweepPlan], prepare: Preparation, store: Store
) -> list[SweepPlan]:
    """Plans of an example trial of each sweep whose trials are proposed later."""
    files = [plan.file for plan in plans if plan.file.sweep.search == "tpe"]
    return plan_sweeps(files, [[file.example()] for file in files], prepare, store)


def _left(plan: SweepPlan, store: Store) -> list[Job]:
    """The sweep's jobs without an entry in the store, but those that failed or were stopped."""
    over = failed_before(plan, store).keys() | stopped_before(plan, store).keys()
    return [job for job in plan.missing(store) if not set(job.variant_keys.values()) <= over]


def _tune(
    plans: Sequence[SweepPlan],
    parents: Sequence[Job],
    store: Store,
    prepare: Preparation,
    trackings: Sequence[Tracking],
    progress: TrialProgress,
) -> None:
    import ray

    before = {key for plan in plans for key in stopped_before(plan, store)}
    stopping = [plan for plan in plans if plan.file.sweep.stops]
    judged = [cell.key for plan in stopping for cell in plan.cells]
    trial_state = (
        ray.remote(TrialStateActor).options(**beside_driver()).remote(sorted(before), judged)
    )
    listener = SweepListener(trial_state, progress)
    jobs = Jobs(
        store, [*trackings, listener], progress, trial_state, trial_state if stopping else None
    )
    limits = [plan.file.sweep.max_concurrent for plan in plans]
    room = min(filter(None, limits), default=None)
    follower = Follower(jobs, listener, plans, trackings, room)
    follower.submit(parents)
    for plan in plans:
        _show(plan, store, progress)
        if plan not in stopping:
            follower.submit(_left(plan, store))
    with follower:
        for number, plan in enumerate(plans):
            if plan in stopping:  # now that there are trials to judge its evaluations
                follower.submit(_left(plan, store))
            left_out = before | failed_before(plan, store).keys()
            if not plan.file.sweep.stops and _left(plan, store):
                listener.begun.wait()  # trials that only wait shall not start beside the job itself
            fit(TrialContext(number, plan, store, trial_state, prepare), left_out)
    stopped = dict.fromkeys(ray.get(trial_state.stopped.remote()), "stopped by the scheduler")
    for plan, cells in zip(plans, follower.cells, strict=True):
        if plan.file.sweep.stops:
            Notes(plan, store, "stopped", cells).write(stopped)
        whole = {
            cell.key: jobs.failures[cell.job.key]
            for cell in cells
            if cell.job.key in jobs.failures and cell.job.parent not in jobs.failures
        }
        failed = {**jobs.failed_variants, **whole}
        Notes(plan, store, "failed", cells).write(failed_before(plan, store) | failed)
    jobs.raise_failures()


def _show(plan: SweepPlan, store: Store, progress: TrialProgress) -> None:
    """Show a sweep's trials, with what is known of them."""
    sweep = plan.file.sweep
    left = dict.fromkeys(stopped_before(plan, store), "stopped")
    left |= dict.fromkeys(failed_before(plan, store), "failed")
    progress.add(plan.cells, sweep.metric, sweep.mode, results_of(plan.cells, store), left)


def tracking_of(plan: SweepPlan, store: Store) -> Tracking:
    """The MLflow runs of a sweep, which are reused as long as its name, stage and base stay the
    same."""
    file = plan.file
    base = {name: value for name, value in file.base.items() if name != "seeds"}
    settings = file.sweep.model_dump(mode="json", exclude_none=True)
    trials = {cell.key: cell.trial.varied for cell in plan.cells}
    digest = digest_of(["sweep", file.sweep.name, file.sweep.stage, base])
    return Tracking(file.sweep.name, digest, settings, store, trials)
