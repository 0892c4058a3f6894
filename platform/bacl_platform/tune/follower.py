"""The driver's side of sweeps: starts their jobs and passes their messages on."""

import threading
import time
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

from bacl.errors import RunError
from bacl_platform.plan.job import Job
from bacl_platform.plan.metric_names import metric_of
from bacl_platform.plan.sweep_memory import result_of, results_of
from bacl_platform.plan.sweep_plan import SweepPlan
from bacl_platform.run.driver import Jobs
from bacl_platform.run.progress import TrialProgress
from bacl_platform.tracking.tracking import Tracking
from bacl_platform.tune.trial_state import Result


class SweepListener:
    """Passes what happens to jobs on to the trials' state and the terminal; a listener, like the
    trackers."""

    def __init__(self, trial_state: Any, progress: TrialProgress) -> None:
        self.trial_state, self.progress = trial_state, progress
        self.begun = threading.Event()
        """Set once a job trains, or none will."""

    def start(self, job: Job) -> None:
        """A job begins to train."""
        self.begun.set()

    def log(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """Evaluations among the rows of a job."""
        for row in rows:
            found: dict[str, dict[str, float]] = {}
            for name, value in row.items():
                if (logged := metric_of(name, job)) is not None:
                    variant, metric = logged
                    key = job.variant_keys[variant]
                    found.setdefault(key, {"step": row["step"]})[metric] = value
            if found:
                self.trial_state.evaluated.remote(found)
                self.progress.evaluated(found)

    def finish(self, job: Job, cached: bool) -> None:
        """A job has a result."""
        self.begun.set()

    def fail(self, job: Job, sentence: str, variants: Collection[str] | None = None) -> None:
        """A job, or a variant of it, has none."""
        self.begun.set()
        self.progress.left([job.variant_keys[name] for name in variants or ()], "failed")


class Follower:
    """Starts and follows jobs in a thread of its own, while Tune runs in the main one."""

    def __init__(
        self,
        jobs: Jobs,
        listener: SweepListener,
        plans: Sequence[SweepPlan],
        trackings: Sequence[Tracking],
        room: int | None,
    ) -> None:
        self.jobs, self.listener, self.plans, self.trackings = jobs, listener, plans, trackings
        self.trial_state, self.progress, self.room = listener.trial_state, listener.progress, room
        self.cells = [list(plan.cells) for plan in plans]
        """Cells of each sweep, those that its search proposed meanwhile included."""
        self._waiting: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._abandoned = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name="jobs", daemon=True)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Start jobs, parents before children, as soon as there is room for them."""
        with self._lock:
            self._waiting |= {job.key: job for job in jobs}

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        if kind is not None:
            self.trial_state.abandon.remote("the driver was stopped")
            self._abandoned.set()
        try:
            self._thread.join()
        except KeyboardInterrupt:  # once more: without the checkpoints, then
            self.jobs.stop_waiting()
            self._thread.join()
            raise
        if kind is None and self._error is not None:
            raise self._error

    def _guarded(self) -> None:
        try:
            self._follow()
        except BaseException as error:
            self._error = error
            self.listener.begun.set()
            self.trial_state.abandon.remote(f"the driver stopped: {error}")

    def _known(self) -> list[str]:
        with self._lock:
            return [*self._waiting, *self.jobs.running]

    def _follow(self) -> None:
        import ray

        known = {cell.job.key for cells in self.cells for cell in cells}
        self._end({key: None for key in known if self.jobs.store.complete(key)})
        while not self._abandoned.is_set():
            if self._over.is_set() and not self._known():
                return
            for number, values, cells in ray.get(self.trial_state.wanted.remote()):
                self.plans[number].file.note_proposed(values, self.jobs.store)
                sweep = self.plans[number].file.sweep
                self.cells[number] += cells
                done = results_of(cells, self.jobs.store)
                self.progress.add(cells, sweep.metric, sweep.mode, done)
                self.trackings[number].add_trials({c.key: c.trial.varied for c in cells})
                for job in {cell.job.key: cell.job for cell in cells}.values():
                    if self.jobs.store.complete(job.key):
                        self.trackings[number].finish(job, cached=True)
                        self._end({job.key: None})
                    elif set(job.variant_keys.values()) <= set(
                        ray.get(self.trial_state.stopped.remote())
                    ):
                        self._end({job.key: "it was stopped in an earlier run"})
                    else:
                        self.submit([job])
            self._start()
            ended = self.jobs.poll()
            self.progress.left(ray.get(self.trial_state.stopped.remote()), "stopped")
            if not self.jobs.running:
                time.sleep(0.2)
            if ended:
                self._end({job.key: self.jobs.failures.get(job.key) for job in ended})
        self.jobs.stop()

    def _end(self, ends: dict[str, str | None]) -> None:
        """Report jobs that ended, and the results of their cells, to the trials' state."""
        import ray

        results: dict[str, Result] = {}
        for cell in chain.from_iterable(self.cells):
            if cell.job.key in ends and ends[cell.job.key] is None:
                try:
                    results[cell.key] = result_of(cell, self.jobs.store)
                except RunError as error:
                    results[cell.key] = str(error)
        ray.get(self.trial_state.end.remote(ends, results))

    def _has_room(self, job: Job) -> bool:
        if self.room is None:
            return self.jobs.fits(job)
        return (
            len(self.jobs.running) < self.room
        )  # a cluster that grows may have more than it shows

    def _start(self) -> None:
        while True:
            with self._lock:
                job = next(iter(self._waiting.values()), None)
                if job is None or not self._has_room(job):
                    return
                del self._waiting[job.key]
            self.jobs.submit(job)
