"""Runs sweeps: Ray Tune schedules trials, the platform's jobs train them, the store remembers.

A Tune trial trains nothing itself. It asks for the job that holds its cell, which the driver starts
as `bacl run` would, and waits for the cell's results from that job; so any number of trials can
train in one bank. One actor, which trials, driver and training workers call, holds the trials'
state.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bacl.errors import RunError
from bacl_platform.console import remark, say
from bacl_platform.plan.job import Job
from bacl_platform.plan.screening import confirmations
from bacl_platform.plan.sweep_memory import Notes, failed_before, results_of, stopped_before
from bacl_platform.plan.sweep_plan import Preparation, SweepPlan, plan_sweeps
from bacl_platform.report.tracked import sweep_page
from bacl_platform.run.driver import Jobs
from bacl_platform.run.placement import beside_driver
from bacl_platform.run.progress import TrialProgress
from bacl_platform.run.ray_session import ray_for
from bacl_platform.store.store import Store
from bacl_platform.tracking.page import Page
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
    Of sweeps that screen, the best trials train exactly once all trials have results. Raises
    RunError with a sentence for each job without a result; the others' results stay.
    """
    with ExitStack() as ending:
        session = _Session(store, prepare, console, address, retry_failed, ending)
        trackings = {p.file.sweep.name: ending.enter_context(tracking_of(p, store)) for p in plans}
        session.run(plans, trackings)
        files = [plan.file for plan in plans if plan.file.sweep.screen]
        screened = plan_sweeps(files, [file.trials(store) for file in files], prepare, store)
        session.run(confirmations(screened, prepare, store, searched=True), trackings)
        for plan in plans:
            trackings[plan.file.sweep.name].report(_page(plan, store, prepare))
        session.end()


def _page(plan: SweepPlan, store: Store, prepare: Preparation) -> Page | None:
    """What MLflow shows of a sweep, with the trials that its search proposed meanwhile."""
    if plan.proposes:
        (plan,) = plan_sweeps([plan.file], [plan.file.trials(store)], prepare, store)
    return sweep_page(
        plan, store, next(iter(confirmations([plan], prepare, store, searched=True)), None)
    )


class _Session:
    """Runs phases of sweeps on one Ray, which is started once there is something to do."""

    def __init__(
        self,
        store: Store,
        prepare: Preparation,
        console: "Console",
        address: str | None,
        retry_failed: bool,
        ending: ExitStack,
    ) -> None:
        self.store, self.prepare, self.console = store, prepare, console
        self.address, self.retry_failed, self.ending = address, retry_failed, ending
        self._progress: TrialProgress | None = None
        self._plans: list[SweepPlan] = []
        self._failed: dict[str, str] = {}
        self._errors: list[str] = []

    def run(self, plans: Sequence[SweepPlan], trackings: Mapping[str, Tracking]) -> None:
        """Run what the store lacks of plans; failures are told by `end`."""
        store = self.store
        self._plans += plans
        for plan in plans:
            tracking = trackings[plan.file.sweep.name]
            tracking.add_trials({cell.key: cell.trial.varied for cell in plan.cells})
            for job in plan.jobs:
                if store.complete(job.key):
                    tracking.finish(job, cached=True)
            if self.retry_failed:
                Notes(plan, store, "failed").write({})
            self._failed |= failed_before(plan, store)
        running = [plan for plan in plans if plan.proposes or _left(plan, store)]
        if not running:
            return
        for plan in running:
            if plan.confirms:
                best = "; ".join(dict.fromkeys(cell.trial.label for cell in plan.cells))
                remark(self.console, f"{plan.file.sweep.name}: screened, now exactly: {best}")
        first = _before_proposals(running, self.prepare, store)
        if self._progress is None:
            asked = [job for plan in running for job in plan.missing(store)]
            asked += [job for plan in first for job in plan.jobs]
            self.ending.enter_context(ray_for(asked, self.address, self.console))
            self._progress = self.ending.enter_context(TrialProgress(self.console))
        of_trials = {cell.job.key for plan in first for cell in plan.cells}
        parents = [j for plan in first for j in plan.missing(store) if j.key not in of_trials]
        own = [trackings[plan.file.sweep.name] for plan in running]
        try:
            _tune(running, parents, store, self.prepare, own, self._progress)
        except RunError as error:
            self._errors.append(str(error))

    def end(self) -> None:
        """Say if there was nothing to do; raise RunError with all that failed, if anything did."""
        if self._errors:
            raise RunError("\n".join(self._errors))
        if self._progress is not None:
            return
        missing = {job.key for plan in self._plans for job in plan.missing(self.store)}
        jobs = [cell.job.key for plan in self._plans for cell in plan.cells]
        there = sum(key not in missing for key in jobs)
        remark(self.console, f"nothing to do: {there} of {len(jobs)} trials are in the store")
        if self._failed:
            failed = len(self._failed)
            say(self.console, f"{failed} failed before: run them again with --retry-failed")


def _before_proposals(
    plans: Sequence[SweepPlan], prepare: Preparation, store: Store
) -> list[SweepPlan]:
    """Plans of an example trial of each sweep whose trials are proposed later."""
    files = [plan.file for plan in plans if plan.proposes]
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
    settings = file.sweep.model_dump(mode="json", exclude_none=True)
    trials = {cell.key: cell.trial.varied for cell in plan.cells}
    dataset = file.example().experiment.dataset
    return Tracking(file.sweep.name, file.digest, settings, store, dataset, trials)
