"""Runs a plan: one Ray task per missing job, submitted once its parent has ended.

Each task drives a Ray Train run, for whose workers Ray finds room; the driver only watches: it
receives the workers' messages, shows progress, and writes it to MLflow.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from bacl.errors import RunError
from bacl_platform.console import remark
from bacl_platform.plan.job import Job, Plan
from bacl_platform.plan.metric_names import system_metric
from bacl_platform.run.failures import failure_of
from bacl_platform.run.mailbox import Mailbox
from bacl_platform.run.placement import beside_driver, groups_of, waiting_for
from bacl_platform.run.progress import Progress
from bacl_platform.run.ray_session import ray_for
from bacl_platform.run.task import build
from bacl_platform.store import prepared_datasets, sample, weights
from bacl_platform.store.failures import clear_failure, logs_command, note_failure
from bacl_platform.store.store import Store
from bacl_platform.train.messages import (
    Checkpointed,
    Gathered,
    Logged,
    Measured,
    Message,
    Placed,
    Short,
    Started,
    Troubled,
    VariantsFailed,
)

if TYPE_CHECKING:
    from ray import ObjectRef
    from rich.console import Console

    from bacl_platform.tracking.page import Page
    from bacl_platform.tracking.tracking import Tracking

AHEAD = 4
"""Jobs at a time that wait for room: each has a process of a gigabyte by then, and a cluster that
grows has to see some of them."""

LOOK_EVERY = 3.0
"""Seconds, at least, between looks which jobs wait for room on the cluster."""

STOP_PATIENCE = 30.0
"""Seconds that a driver which was asked to end waits for its jobs' checkpoints."""


def run(
    plan: Plan,
    store: Store,
    tracking: "Tracking",
    console: "Console",
    address: str | None = None,
    page: "Callable[[], Page | None]" = lambda: None,
) -> None:
    """Run what the store lacks of a plan, on a new local Ray or on the cluster at `address`.

    page: asked at the end what tracking shows of the plan as a whole. Jobs whose parent failed are
    not run; the others go on. Raises RunError with a sentence for each job without a result. After
    that or Ctrl-C, on which jobs write a checkpoint first, finished jobs and the others'
    checkpoints stay, and the same command goes on from them.
    """
    missing = plan.missing(store)
    with tracking:
        for job in plan.jobs:
            if job not in missing:
                tracking.finish(job, cached=True)
        if not missing:
            tracking.report(page())
            total = len(plan.jobs)
            remark(console, f"nothing to do: {total} of {total} jobs are in the store")
            return
        with ray_for(missing, address, console), Progress(console) as progress:
            jobs = Jobs(store, [tracking], progress)
            try:
                queued = list(missing)
                while queued or jobs.running:
                    jobs.submit_ready(queued)
                    jobs.poll()
            except KeyboardInterrupt:
                jobs.stop()
                raise
        tracking.report(page())
        jobs.raise_failures()


def pending_groups() -> list[list[dict[str, float]]]:
    """What this driver has asked Ray for and not been given: resources of each worker, for each
    job."""
    import ray

    own = ray.get_runtime_context().get_job_id()  # the end of its groups' ids
    return [
        [
            {name: amount for name, amount in worker.items() if not name.startswith("accelerator_")}
            for worker in group["bundles"].values()
        ]
        for identity, group in ray.util.placement_group_table().items()
        if group["state"] in ("PENDING", "RESCHEDULING") and identity.endswith(own)
    ]


class Listener(Protocol):
    """Follows the jobs of a driver, as `bacl_platform.tracking.tracking.Tracking` does."""

    def start(self, job: Job) -> None: ...
    def log(self, job: Job, rows: list[dict[str, Any]]) -> None: ...
    def finish(self, job: Job, cached: bool) -> None: ...
    def fail(self, job: Job, sentence: str, variants: Collection[str] | None = None) -> None: ...


class Jobs:
    """Starts jobs as Ray tasks, and passes their messages on to trackers and terminal."""

    def __init__(
        self,
        store: Store,
        listeners: Sequence[Listener],
        progress: Progress,
        mailbox: Any = None,
        board: Any = None,
    ) -> None:
        import ray

        self.store, self.listeners, self.progress = store, listeners, progress
        self.mailbox = mailbox or ray.remote(Mailbox).options(**beside_driver()).remote()
        self.board = board
        self.running: dict[str, ObjectRef] = {}
        self.failures: dict[str, str] = {}
        """Sentences of the jobs that ended without a result."""
        self.failed_variants: dict[str, str] = {}
        """Sentences of single variants that did, of jobs that went on, by the variant's key."""
        self._jobs: dict[str, Job] = {}
        self._noted: set[str] = set()
        """Datasets whose images this driver has taken a sample of."""
        self._results: dict[str, ObjectRef] = {}
        self._training: set[str] = set()
        self._placed: set[str] = set()
        """Jobs whose workers have their places on the cluster."""
        self._stopping, self._deadline = False, math.inf
        self._looked = time.monotonic()
        self._waiting: dict[str, str] = {}
        """What jobs waited for at the last look."""
        self._build = ray.remote(build).options(**beside_driver())

    def submit(self, job: Job) -> None:
        """Start a job, after its parent's end if that was submitted; a job that failed starts anew.

        A job that runs already, or is done, is left alone.
        """
        if job.key in self._results and job.key not in self.failures:
            return
        self.failures.pop(job.key, None)
        clear_failure(self.store, job.key)
        before = [key for key in (job.parent, job.features_from) if key in self._results]
        parent = self._results[before[0]] if before else None  # which waits for its own
        self._jobs[job.key] = job
        prepared_datasets.push(self.store, job.dataset_digest)
        if job.dataset_digest not in self._noted:
            sample.note(self.store, job.dataset_digest)
            self._noted.add(job.dataset_digest)
        weights.push(self.store, job.config)
        started = self._build.remote(job, self.store, self.mailbox, self.board, parent)
        self._results[job.key] = self.running[job.key] = started

    def submit_ready(self, queued: list[Job]) -> None:
        """Submit jobs from `queued`, each after its parent, and take them from it: those whose
        parent has ended, in their order, while the cluster has room or few wait for it."""
        for job in list(queued):
            unfinished = {one.key for one in queued} | self.running.keys()
            if unfinished & {job.parent, job.features_from}:
                continue
            if len(self.running.keys() - self._placed) >= AHEAD and not self.fits(job):
                return
            queued.remove(job)
            self.submit(job)

    def fits(self, job: Job) -> bool:
        """Whether the cluster has room for a job beside those that run; always, where none runs.

        Of a range of workers the job needs the fewest, and those that run may have the most.
        Ray would let it wait as well, but with a controller and its helpers for each that waits.
        """
        import ray

        if not self.running:
            return True
        running = [self._jobs[key].resources for key in self.running]
        asked = [(r, r.most) for r in running] + [(job.resources, job.resources.least)]
        total = ray.cluster_resources()
        return all(
            sum(count * getattr(r, f"{kind.lower()}s") for r, count in asked) <= total.get(kind, 0)
            for kind in ("CPU", "GPU")
        )

    def poll(self) -> list[Job]:
        """Wait at most half a second, pass on the jobs' messages, and return the jobs that
        ended."""
        import ray

        refs = list(self.running.values())
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0.5) if refs else ([], [])
        for message in ray.get(self.mailbox.drain.remote()):
            self._hear(self._jobs[message.key], message)
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._look_who_waits()
        ended = [self._jobs[key] for key, ref in self.running.items() if ref in done]
        for job in ended:
            self._end(job, failure_of(job, self.running.pop(job.key)))
        return ended

    def _look_who_waits(self) -> None:
        """Show what jobs wait for that were waiting at the last look as well."""
        import ray

        self._looked = time.monotonic()
        pending, free = pending_groups(), ray.available_resources()
        before, self._waiting = self._waiting, {}
        jobs = [self._jobs[key] for key in self.running if key not in self._placed]
        jobs = [job for job in jobs if job.parent not in self.running]
        asked = [groups_of(job.resources) for job in jobs]
        for job, group in zip(jobs, asked):
            # of jobs that ask for the same, nobody knows which one waits until all do
            if pending.count(group) < asked.count(group):
                continue
            self._waiting[job.key] = waiting_for(job.resources, free)
            if job.key in before:
                self.progress.wait(job, self._waiting[job.key])

    def stop(self, patience: float = STOP_PATIENCE) -> None:
        """Let jobs that train write a checkpoint and end; wait `patience` seconds for that."""
        import ray

        ray.get(self.mailbox.ask_to_stop.remote())
        self._stopping = True
        self._deadline = min(self._deadline, time.monotonic() + patience)
        if self._training:
            self.progress.say(
                f"stopping: jobs write a checkpoint first, for at most {patience:.0f} s; Ctrl-C "
                "again ends at once"
            )
        while self._training and time.monotonic() < self._deadline:
            self.poll()

    def stop_waiting(self) -> None:
        """Make a `stop` in another thread return early."""
        self._deadline = 0.0

    def raise_failures(self) -> None:
        """Raise RunError with all that failed, if anything did."""
        if failed := [*self.failures.values(), *self.failed_variants.values()]:
            raise RunError("\n".join(failed))

    def _end(self, job: Job, failure: str | None) -> None:
        self._training.discard(job.key)
        self._placed.discard(job.key)
        if self._stopping and failure is not None:
            self.progress.end(job, failure)
        elif failure is None and not self.store.complete(job.key):
            self.progress.end(job, "stopped early")
        elif failure is None:
            for listener in self.listeners:
                listener.finish(job, cached=False)
            self.progress.end(job, "done")
        elif job.parent in self.failures:
            parent = self._jobs[job.parent].name
            self.failures[job.key] = f"job {job.name} was not run: it starts from job {parent}"
            self.progress.skip(job)
        else:
            note_failure(self.store, job.key, failure)
            failure = f"{failure}; its last log lines: {logs_command(self.store, job.key)}"
            for listener in self.listeners:
                listener.fail(job, failure)
            self.progress.end(job, "failed")
            self.failures[job.key] = failure

    def _hear(self, job: Job, message: Message) -> None:
        import ray

        match message:
            case Placed():
                self._placed.add(job.key)
            case Short():
                self.progress.wait(job, waiting_for(job.resources, ray.available_resources()))
            case Started():
                self._training.add(job.key)
                self.progress.begin(job, message.step)
                for listener in self.listeners:
                    listener.start(job)
            case Gathered():
                self.progress.gather(job, message)
                if message.lost is not None:
                    lost = asdict(message.lost)
                    named = {system_metric(0, f"lost_{name}"): v for name, v in lost.items()}
                    for listener in self.listeners:
                        listener.log(job, [{"step": message.step, **named}])
            case Logged():
                self.progress.move(job, message.rows)
                for listener in self.listeners:
                    listener.log(job, message.rows)
            case Measured():
                for listener in self.listeners:
                    listener.log(job, message.rows)
            case Checkpointed():
                self.progress.checkpoint(job, message.step)
            case Troubled():
                self._placed.discard(job.key)
                self.progress.say(f"{job.name}: {message.sentence}")
            case VariantsFailed():
                for variant, sentence in message.sentences.items():
                    self.failed_variants[job.variant_keys[variant]] = sentence
                    self.progress.say(
                        f"{job.name}: variant {variant} has failed, the others go on: {sentence}"
                    )
                    for listener in self.listeners:
                        listener.fail(job, sentence, [variant])
