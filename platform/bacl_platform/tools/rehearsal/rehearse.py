"""Rehearses an experiment: runs its stages for some steps, measures them, and leaves their figures
in the store."""

import contextlib
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from bacl.datasets.prepared import Prepared
from bacl.errors import BaclError, RunError
from bacl_platform.plan.job import Job, Plan
from bacl_platform.plan.rehearsed import Figures, remember
from bacl_platform.run.driver import Jobs
from bacl_platform.run.progress import Progress
from bacl_platform.run.ray_session import ray_for
from bacl_platform.store import prepared_datasets, unfinished
from bacl_platform.store.drivers import driving
from bacl_platform.store.names import LOG
from bacl_platform.store.store import Store
from bacl_platform.tools.rehearsal.advice import GIB, Need, needs, settings_that_fit
from bacl_platform.tools.rehearsal.figures import Row, figures_of, pass_images
from bacl_platform.tools.rehearsal.forecast import (
    Forecast,
    JobForecast,
    forecast_job,
    forecast_run,
)
from bacl_platform.tools.rehearsal.images import Shown
from bacl_platform.tools.rehearsal.jobs import (
    halved,
    parent_of,
    placed,
    rehearse_job,
    representatives,
    some_of,
)
from bacl_platform.tools.rehearsal.probes import probe_nodes, probe_tracking
from bacl_platform.tools.rehearsal.scratch import give, scratch

if TYPE_CHECKING:
    from rich.console import Console

LINES = 15
"""Of the log of a job that failed."""
_RAN_OUT = re.compile(r"out ?of ?memory|low on memory", re.IGNORECASE)
"""What sentences have of failures for want of memory, torch's and Ray's."""


@dataclass(frozen=True)
class Finding:
    """Something that a run would break of, in a sentence, with what would mend it."""

    sentence: str
    changes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.changes:
            return self.sentence
        return f"{self.sentence}; each of these would fit by an estimate: {', '.join(self.changes)}"


@dataclass(frozen=True)
class StageRehearsed:
    """A stage of the plan. job: the one that stands for it. figures: None where it failed."""

    job: Job
    figures: Figures | None
    jobs: list[JobForecast]
    """What is forecast of those of its jobs that are to run."""


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal has found. forecast: None where a stage has no figures."""

    plan: Plan
    stages: list[StageRehearsed]
    findings: list[Finding]
    forecast: Forecast | None
    disk_room: int | None
    """Free bytes where entries go; None of a bucket, which does not tell."""


class _Listener:
    """Keeps what the ranks of jobs tell."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {}

    def log(self, job: Job, rows: list[dict[str, Any]]) -> None:
        self.rows.setdefault(job.key, []).extend(row for row in rows if "told" in row)

    def start(self, job: Job) -> None:
        """What is of no interest here."""

    def finish(self, job: Job, cached: bool) -> None:
        """As well."""

    def fail(self, job: Job, sentence: str, variants: Collection[str] | None = None) -> None:
        """`Jobs` keeps sentences."""


def rehearse(
    plan: Plan,
    prepared: Prepared,
    store: Store,
    console: "Console",
    address: str | None,
    steps: int,
    images: int,
    command: str,
    planning: float = 0.0,
) -> Rehearsed:
    """Run each stage that has jobs to run for `steps` steps, evaluate it on `images` images, and
    leave what was measured in the store.

    Everything else that comes to be is removed again, also where this is interrupted. command: the
    run's, which reports name. planning: seconds that making the plan took. Raises RunError where
    the cluster cannot be reached or has no room for a job.
    """
    missing = plan.missing(store)
    if not missing:
        return Rehearsed(plan, [], [], None, None)
    chosen = representatives(plan, store)
    findings: list[Finding] = []
    stages: list[StageRehearsed] = []
    with contextlib.ExitStack() as ending:
        try:
            ending.enter_context(driving(store))
            inner = ending.enter_context(scratch(store))
        except RunError as error:
            return Rehearsed(plan, [], [Finding(str(error))], None, None)
        tracking, problem = probe_tracking(plan.experiment.name, store, inner)
        if problem is not None:
            findings.append(Finding(problem))
        shown = some_of(chosen, prepared, inner, images)
        prepared_datasets.push(store, prepared.digest)
        prepared_datasets.push(inner, shown.prepared.digest)
        began = time.perf_counter()
        with ray_for(chosen, address, console), Progress(console) as progress:
            import ray

            before = planning + tracking + time.perf_counter() - began
            room = dict(ray.cluster_resources())
            findings += map(Finding, probe_nodes(prepared, inner))
            total = prepared.val.image_total
            rehearsal = _Rehearsal(plan, store, inner, shown, steps, total, ray.nodes())
            jobs = Jobs(inner, [rehearsal.listener], progress)
            for job in chosen:
                stages.append(rehearsal.run(job, jobs, missing))
            findings += rehearsal.findings
            after = time.perf_counter()
        after = time.perf_counter() - after + rehearsal.report(command)
    forecasts = [one for stage in stages for one in stage.jobs]
    forecast = None
    if len(forecasts) == len(missing):
        forecast = forecast_run(forecasts, room, before, after)
    free = None if store.bucket else shutil.disk_usage(store.root).free
    findings += _full(stages, forecast, free, store)
    return Rehearsed(plan, stages, findings, forecast, free)


def _full(
    stages: list[StageRehearsed], forecast: Forecast | None, free: int | None, store: Store
) -> Iterator[Finding]:
    """Disks that would fill: the store's, or those of the machines that work for a bucket."""
    if free is not None:
        if forecast is not None and forecast.peak > free:
            yield Finding(
                f"{store.root}: expected {decimal(forecast.peak)} for entries and checkpoints, "
                f"the disk has {decimal(free)} free: free some, keep fewer checkpoints "
                "(recipe.keep_last, keep_every) or choose another --store"
            )
        return
    for stage in stages:
        rooms = [one.disk_room for one in stage.figures.memory] if stage.figures else []
        for one in stage.jobs:
            asked = one.bytes.entry + one.bytes.work
            if rooms and asked > min(rooms):
                yield Finding(
                    f"job {one.job.name}: expected {decimal(asked)} on the disk of the machine "
                    f"that it runs on, found {decimal(min(rooms))} free: set BACL_CACHE to a "
                    "folder on a larger disk"
                )


class _Rehearsal:
    """The jobs of a rehearsal, one after the other."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        inner: Store,
        shown: Shown,
        steps: int,
        val_images: int,
        nodes: Sequence[Mapping[str, Any]],
    ) -> None:
        self.plan, self.store, self.inner, self.shown = plan, store, inner, shown
        self.steps, self.val_images, self.nodes = steps, val_images, nodes
        self.place = shown.prepared, inner
        self.listener = _Listener()
        self.findings: list[Finding] = []
        self.made: dict[str, Job] = {}
        """Rehearsed jobs by stage."""

    def run(self, job: Job, jobs: Jobs, missing: list[Job]) -> StageRehearsed:
        """Rehearse a job of the plan; what is forecast of its stage follows from it."""
        parent = parent_of(job, self.plan, self.made, self.store)
        if parent is not None and self.store.complete(parent):
            self._give(parent)
        now = placed(job, self.nodes)
        made = rehearse_job(now, parent, self.shown, self.store, self.steps)
        self.made[job.stage] = made
        if parent is not None and not self.inner.complete(parent):
            self.findings.append(
                Finding(f"stage {job.stage} was not rehearsed: it starts from one that failed")
            )
            return StageRehearsed(job, None, [])
        sentence, seconds = self._run(made, jobs)
        rows = self.listener.rows.get(made.key, [])
        if sentence is not None:
            self._failed(job, made, sentence, jobs)
            return StageRehearsed(job, None, [])
        self.inner.complete(made.key)  # which brings it here from a bucket
        figures = figures_of(made, rows, seconds, *self.place)
        remember(job, figures, self.store)
        for need in needs(job, figures):
            if need.lacks > 0:
                self.findings.append(lacking(job, need, figures))
        own = [one for one in missing if one.stage == job.stage]
        return StageRehearsed(
            job,
            figures,
            [
                forecast_job(
                    one, figures, self.val_images, unfinished.newest_step(self.store, one.key) or 0
                )
                for one in own
            ],
        )

    def _give(self, key: str) -> None:
        """Let jobs start from a finished one, and that from those before."""
        known = self.store.descriptions()
        while key:
            give(key, self.store, self.inner)
            key = known.get(key, {}).get("parent") or ""

    def _failed(self, job: Job, made: Job, sentence: str, jobs: Jobs) -> None:
        """Note a failure; where memory ran out, how much is missing, by as many images as fit."""
        self.findings.append(Finding(sentence))
        fewer, problem = halved(made), sentence
        while fewer is not None and _RAN_OUT.search(problem):
            told, seconds = self._run(fewer, jobs)
            if told is None:
                rows = self.listener.rows[fewer.key]
                self._estimate(job, made, figures_of(fewer, rows, seconds, *self.place))
                return
            fewer, problem = halved(fewer), told

    def _estimate(self, job: Job, made: Job, figures: Figures) -> None:
        """Note what a job lacks of memory, by the figures of one with fewer images at once."""
        at_full = figures.model_copy(update={"pass_images": pass_images(made)})
        for need in needs(job, figures):
            most = need.with_images(at_full.pass_images / figures.pass_images)
            whole = Need(need.kind, most, need.room, need.fixed, need.loaders)
            if whole.lacks > 0:
                self.findings.append(lacking(job, whole, at_full))

    def _run(self, job: Job, jobs: Jobs) -> tuple[str | None, float]:
        """Run one job to its end; returns why it failed, if it did, and the seconds that it took.

        Its last log lines, which are about to be removed, are shown then.
        """
        began = time.perf_counter()
        jobs.submit(job)
        while jobs.running:
            jobs.poll()
        seconds = time.perf_counter() - began
        failed = [jobs.failures[job.key]] if job.key in jobs.failures else []
        keys = job.variant_keys.values()
        failed += [jobs.failed_variants[key] for key in keys if key in jobs.failed_variants]
        if not failed:
            return None, seconds
        log = unfinished.read(self.inner, job.key, LOG) or ""
        for line in log.splitlines()[-LINES:]:
            jobs.progress.say(line)
        return "; ".join(sentence.split("; its last log lines")[0] for sentence in failed), seconds

    def report(self, command: str) -> float:
        """Write the report of what was rehearsed; returns the seconds that it took."""
        from bacl_platform.report.tracked import plan_page

        began = time.perf_counter()
        done = [job for job in self.made.values() if self.inner.complete(job.key)]
        if not any(job.variants for job in done):
            return 0.0
        try:
            page = plan_page(self._reported(done), self.inner, command)
            if page is not None:
                page.made()
        except BaclError as error:
            self.findings.append(Finding(f"the report could not be written: {error}"))
        return time.perf_counter() - began

    def _reported(self, jobs: list[Job]) -> Plan:
        """A plan of rehearsed jobs alone."""
        stages: Mapping[str, Any] = self.plan.experiment.stages
        kept = {}
        for job in jobs:
            stage = stages[job.stage]
            if job.kind == "classifier":
                stage = stage.model_copy(update={"variants": dict(job.variants)})
            kept[job.stage] = stage
        names = [name for job in jobs for name in job.variants]
        baseline = self.plan.experiment.baseline
        return Plan.model_construct(
            experiment=self.plan.experiment.model_copy(
                update={
                    "stages": kept,
                    "seeds": [jobs[0].seed],
                    "baseline": baseline if baseline in names else None,
                }
            ),
            jobs=jobs,
        )


def lacking(job: Job, need: Need, figures: Figures) -> Finding:
    """That memory does not fit, how much is missing, and the settings that would fit."""
    whose = "of its GPU" if need.kind == "GPU" else "of host memory"
    if need.kind == "host" and job.resources.memory * GIB == need.room:
        whose = "that stages." + job.stage + ".resources.memory sets aside"
    changes = settings_that_fit(job, need, figures)
    sentence = (
        f"stage {job.stage}: a worker takes {need.most / GIB:.2f} GiB, which is "
        f"{need.lacks / GIB:.2f} GiB more than the {need.room / GIB:.2f} GiB {whose}"
    )
    if not changes:
        sentence += ": no single setting makes that fit: expected machines with more memory"
    return Finding(sentence, changes)
