"""Runs sweeps: Ray Tune schedules trials, the platform's jobs train them, the store remembers.

A Tune trial trains nothing itself. It asks for the job that holds its cell, which the driver starts
as `bacl run` would, and waits for what that job says of the cell; so that any number of trials can
train in one bank. Between trials, driver and training workers stands one actor, the board.
"""

import asyncio
import contextlib
import json
import logging
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.errors import RunError
from bacl_platform.plan.planner import Job, digest_of
from bacl_platform.plan.sweep_plan import Cell, Preparation, SweepPlan, plan_sweeps
from bacl_platform.run.driver import Jobs, Wire, beside_driver, ray_for
from bacl_platform.run.progress import TrialProgress
from bacl_platform.spec.space import Space
from bacl_platform.spec.sweep import Asha, Median, Sweep
from bacl_platform.store.store import Store
from bacl_platform.tracking.tracking import Tracking

if TYPE_CHECKING:
    from rich.console import Console

RESOURCES = {"cpu": 0, "node:__internal_head__": 0.001}
"""What a trial asks for, Tune wants it to be something: a place on the cluster's head, no core."""
PATIENCE = 20
"""Seconds that a bank waits for trials to judge an evaluation."""
ACTORS = 4
"""Trials that wait side by side where nothing but their end is waited for: each is a process."""


Result = dict[str, float] | str
"""Metrics of a cell, or the sentence that tells why it has none."""
Wanted = tuple[int, dict[str, Any], list[Cell]]
"""Which sweep, the values that its search proposes, and the cells of that trial."""


class Board(Wire):
    """What trials want, what jobs say of cells, which cells were stopped. A Ray actor.

    It is the jobs' wire as well, because one process starts sooner than two.
    """

    def __init__(self, stopped: Sequence[str], judged: Sequence[str]) -> None:
        super().__init__()
        self._wanted: list[Wanted] = []
        self._rows: dict[str, list[dict[str, float]]] = {}
        self._ends: dict[str, str | None] = {}
        self._results: dict[str, Result] = {}
        self._stopped = set(stopped)
        self._over: str | None = None
        """Why no job is followed any more."""
        self._asked = dict.fromkeys(judged, 0)
        """How many evaluations of each cell that a scheduler judges its trial has asked for."""
        self._news = asyncio.Condition()

    async def want(self, wanted: "Wanted") -> None:
        """A trial that a search proposed asks for its cells."""
        self._wanted.append(wanted)

    async def wanted(self) -> list["Wanted"]:
        """What was asked for since the last call."""
        wanted, self._wanted = self._wanted, []
        return wanted

    async def evaluated(self, rows: dict[str, dict[str, float]]) -> None:
        """Evaluations of cells, by their keys."""
        for key, row in rows.items():
            self._rows.setdefault(key, []).append(row)
        async with self._news:
            self._news.notify_all()

    async def end(self, ends: dict[str, str | None], results: dict[str, Result]) -> None:
        """Jobs have ended: by their keys, the sentences of those without a result; by the keys of
        cells, what came of those of the others."""
        self._ends |= ends
        self._results |= results
        async with self._news:
            self._news.notify_all()

    async def abandon(self, sentence: str) -> None:
        """Nobody follows jobs any more: trials that wait for any are told so."""
        async with self._news:
            self._over = sentence
            self._news.notify_all()

    def _ended(self, job: str) -> bool:
        return self._over is not None or job in self._ends

    async def row(self, cell: str, job: str, number: int) -> Result:
        """A cell's evaluation, once there is one of that number; else what came of it."""
        async with self._news:
            if cell in self._asked:
                self._asked[cell] = number + 1
            self._news.notify_all()
            await self._news.wait_for(
                lambda: len(self._rows.get(cell, [])) > number or self._ended(job)
            )
        rows = self._rows.get(cell, [])
        return rows[number] if len(rows) > number else self._outcome(cell, job)

    async def outcome(self, cell: str, job: str) -> Result:
        """What came of a cell, once its job has ended."""
        async with self._news:
            await self._news.wait_for(lambda: self._ended(job))
        return self._outcome(cell, job)

    def _outcome(self, cell: str, job: str) -> Result:
        return self._ends.get(job, self._over) or self._results[cell]

    async def stop(self, cell: str) -> None:
        """A cell need not go on; once jobs are abandoned, none is stopped for that."""
        async with self._news:
            if self._over is None:
                self._stopped.add(cell)
            self._news.notify_all()

    async def stopped(self) -> list[str]:
        """Cells that need not go on."""
        return sorted(self._stopped)

    async def verdict(self, cells: list[str], evaluations: int) -> list[str]:
        """Which of a job's cells need not go on after so many evaluations.

        Waits a while for trials that have not judged the last of them: one that has asks for the
        next.
        """

        def judged() -> bool:
            asked = [self._asked.get(cell) for cell in cells if cell not in self._stopped]
            return self._over is not None or all(
                count is None or count > evaluations for count in asked
            )

        async with self._news:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait_for(judged), PATIENCE)
        return sorted(self._stopped.intersection(cells))


@dataclass(frozen=True)
class Work:
    """What the trials of a sweep are given."""

    number: int
    """Which of the sweeps it is."""
    plan: SweepPlan
    store: Store
    board: Any
    prepare: Preparation


def _trainable() -> type:
    """The class of Tune's trials, made where Ray is needed."""
    import ray
    from ray import tune

    class CellTrial(tune.Trainable):
        """One cell; or, of a search that proposes trials, one trial with all its seeds."""

        work: Work

        def setup(self, config: dict[str, Any], work: Work | None = None) -> None:
            self.work = work or self.work
            self.number, self.ended = 0, False
            if "cell" in config:
                self.cells = [c for c in self.work.plan.cells if c.key == config["cell"]]
            else:
                file = self.work.plan.file
                values = _decoded(config, file.sweep.spaces[0])
                trial = file.trial(values)
                (proposed,) = plan_sweeps([file], [[trial]], self.work.prepare, self.work.store)
                self.cells = proposed.cells
                wanted = (self.work.number, values, proposed.cells)
                ray.get(self.work.board.want.remote(wanted))

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            sweep, board = self.work.plan.file.sweep, self.work.board
            if sweep.stops:
                return self._next_evaluation()
            found = [_found(board.outcome.remote(c.key, c.job.key)) for c in self.cells]
            self.ended = True
            values = [f.get(sweep.metric, math.nan) for f in found]  # NaN: nothing to evaluate
            return {sweep.metric: sum(values) / len(values), "done": True}

        def _next_evaluation(self) -> dict[str, Any]:
            (cell,) = self.cells
            found = _found(self.work.board.row.remote(cell.key, cell.job.key, self.number))
            self.number += 1
            self.ended = found.get("step", math.inf) >= cell.job.iterations
            return {**found, "done": self.ended}

        def cleanup(self) -> None:
            if not self.ended and self.work.plan.file.sweep.stops:
                ray.get([self.work.board.stop.remote(cell.key) for cell in self.cells])

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: checkpoints are the store's."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing, as nothing was saved."""

    return CellTrial


def _found(said: Any) -> dict[str, float]:
    import ray

    result: Result = ray.get(said)
    if isinstance(result, str):
        raise RunError(result)
    return result


def result_of(cell: Cell, store: Store) -> dict[str, float]:
    """Final metrics of a cell that the store has."""
    path = store.entry(cell.job.key) / "variants" / cell.trial.variant / "metrics.json"
    if not path.exists():
        raise RunError(
            f"{cell.trial.label}: expected its result in job {cell.job.name}, which ended without "
            "it: the trial was stopped early or failed there"
        )
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    return {name: value for name, value in metrics.items() if value is not None}


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
            console.print(f"nothing to do: {there} of {len(jobs)} trials are in the store")
            if failed:
                console.print(f"{len(failed)} failed before: run them again with --retry-failed")
            return
        running, own_trackings = zip(*todo.values(), strict=True)
        first = _before_proposals(running, prepare, store)
        asked = [job for plan in running for job in plan.missing(store)]
        asked += [job for plan in first for job in plan.jobs]
        ending.enter_context(ray_for(asked, address, console))
        progress = ending.enter_context(TrialProgress(console))
        parents = [
            j for plan in first for j in plan.missing(store) if j.key == plan.cells[0].job.parent
        ]
        _tune(running, parents, store, prepare, own_trackings, progress)


def _before_proposals(
    plans: Sequence[SweepPlan], prepare: Preparation, store: Store
) -> list[SweepPlan]:
    """Of sweeps whose trials are proposed later, the plan of an example."""
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
    board = ray.remote(Board).options(**beside_driver()).remote(sorted(before), judged)
    feed = Feed(board, progress)
    jobs = Jobs(store, [*trackings, feed], progress, board, board if stopping else None)
    limits = [plan.file.sweep.max_concurrent for plan in plans]
    room = min(filter(None, limits), default=None)
    follower = Follower(jobs, feed, plans, trackings, room)
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
                feed.begun.wait()  # trials that only wait shall not start beside the job itself
            _fit(Work(number, plan, store, board, prepare), left_out)
    stopped = dict.fromkeys(ray.get(board.stopped.remote()), "stopped by the scheduler")
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
    progress.add(plan.cells, sweep.metric, sweep.mode, _done(plan.cells, store), left)


def _done(cells: Sequence[Cell], store: Store) -> dict[str, dict[str, float]]:
    """Final metrics of the cells that the store has, by their keys."""
    return {cell.key: result_of(cell, store) for cell in cells if store.complete(cell.job.key)}


def _fit(work: Work, left_out: set[str]) -> None:
    """Let Tune run the trials of a sweep, all but some cells, by their keys."""
    from ray import tune

    sweep, cells = work.plan.file.sweep, work.plan.cells
    keys = list(dict.fromkeys(cell.key for cell in cells if cell.key not in left_out))
    proposes = sweep.search == "tpe"
    if not keys and not proposes:
        return
    # each trial is a process; where nothing but the end is waited for, few do for many
    side_by_side = len(keys) if sweep.stops else ACTORS
    # Ctrl-C is this driver's, not Tune's, which would wait for all trials' next results
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one tells of itself even if silent
    folder = work.store.root / ".work" / ".tune" / uuid.uuid4().hex[:8]
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # jobs' failures are told by them
    try:
        with _in(work.store.root):
            results = tune.Tuner(
                tune.with_resources(tune.with_parameters(_trainable(), work=work), RESOURCES),
                param_space=None if proposes else {"cell": tune.grid_search(keys)},
                tune_config=tune.TuneConfig(
                    metric=sweep.metric,
                    mode=sweep.mode,
                    search_alg=_searcher(sweep) if proposes else None,
                    num_samples=sweep.samples if proposes else 1,
                    scheduler=_scheduler(sweep),
                    max_concurrent_trials=(sweep.max_concurrent or 1) if proposes else side_by_side,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name=sweep.name, storage_path=str(folder), verbose=0, callbacks=[]
                ),
            ).fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    own = [error for error in results.errors if RunError.__name__ not in str(error)]
    if own:
        raise RunError(f"{work.plan.file.path}: a trial failed outside its job: {own[0]}")


@contextlib.contextmanager
def _in(folder: Path) -> Iterator[None]:
    """Work in a folder that stays: Tune asks where it is, and a submitted job's own may be gone."""
    before = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@dataclass(frozen=True)
class Proposer:
    """A space as Optuna is asked for points of it: a class, because Tune pickles it."""

    space: Space

    def __call__(self, trial: Any) -> None:
        values: dict[str, Any] = {}
        for path, axis in sorted(self.space.items(), key=lambda item: bool(item[1].when)):
            if not axis.counts(values):
                continue
            if axis.choice is not None:  # by its place, because a choice may be no plain value
                place = trial.suggest_categorical(path, list(range(len(axis.choice))))
                values[path] = axis.choice[place]
            elif axis.randint is not None:
                values[path] = trial.suggest_int(path, *axis.randint)
            else:
                low, high = axis.uniform or axis.loguniform or (0, 0)
                log = axis.loguniform is not None
                values[path] = trial.suggest_float(path, low, high, log=log)


def _searcher(sweep: Sweep) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (space,) = sweep.spaces
    return OptunaSearch(
        Proposer(space), metric=sweep.metric, mode=sweep.mode, seed=sweep.search_seed
    )


def _decoded(config: dict[str, Any], space: Space) -> dict[str, Any]:
    """Values of a trial from what the searcher proposed."""
    return {
        path: value if (choice := space[path].choice) is None else choice[value]
        for path, value in config.items()
    }


def _scheduler(sweep: Sweep) -> Any:
    from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

    if isinstance(sweep.scheduler, Asha):
        return ASHAScheduler(
            time_attr="training_iteration",
            max_t=10**6,
            grace_period=sweep.scheduler.grace,
            reduction_factor=sweep.scheduler.reduction,
        )
    if isinstance(sweep.scheduler, Median):
        return MedianStoppingRule(
            time_attr="training_iteration",
            grace_period=sweep.scheduler.grace,
            min_samples_required=sweep.scheduler.least,
        )
    return None


class Feed:
    """Hands what jobs tell on to the board and the terminal, as trackers take it."""

    def __init__(self, board: Any, progress: TrialProgress) -> None:
        self.board, self.progress = board, progress
        self.begun = threading.Event()
        """That a job trains, or that none will."""

    def start(self, job: Job) -> None:
        """A job begins to train."""
        self.begun.set()

    def log(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """Evaluations among the rows of a job."""
        for row in rows:
            found: dict[str, dict[str, float]] = {}
            for name, value in row.items():
                variant, slash, metric = name.partition("/")
                if slash and variant in job.variant_keys:
                    key = job.variant_keys[variant]
                    found.setdefault(key, {"step": row["step"]})[metric] = value
            if found:
                self.board.evaluated.remote(found)
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
        feed: Feed,
        plans: Sequence[SweepPlan],
        trackings: Sequence[Tracking],
        room: int | None,
    ) -> None:
        self.jobs, self.feed, self.plans, self.trackings = jobs, feed, plans, trackings
        self.board, self.progress, self.room = feed.board, feed.progress, room
        self.cells = [list(plan.cells) for plan in plans]
        """Of each sweep, those that its search proposed meanwhile included."""
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
            self.board.abandon.remote("the driver was stopped")
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
            self.feed.begun.set()
            self.board.abandon.remote(f"the driver stopped: {error}")

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
            for number, values, cells in ray.get(self.board.wanted.remote()):
                self.plans[number].file.note_proposed(values, self.jobs.store)
                sweep = self.plans[number].file.sweep
                self.cells[number] += cells
                done = _done(cells, self.jobs.store)
                self.progress.add(cells, sweep.metric, sweep.mode, done)
                self.trackings[number].add_trials({c.key: c.trial.varied for c in cells})
                for job in {cell.job.key: cell.job for cell in cells}.values():
                    if self.jobs.store.complete(job.key):
                        self.trackings[number].finish(job, cached=True)
                        self._end({job.key: None})
                    elif set(job.variant_keys.values()) <= set(
                        ray.get(self.board.stopped.remote())
                    ):
                        self._end({job.key: "it was stopped in an earlier run"})
                    else:
                        self.submit([job])
            self._start()
            ended = self.jobs.poll()
            self.progress.left(ray.get(self.board.stopped.remote()), "stopped")
            if not self.jobs.running:
                time.sleep(0.2)
            if ended:
                self._end({job.key: self.jobs.failures.get(job.key) for job in ended})
        self.jobs.stop()

    def _end(self, ends: dict[str, str | None]) -> None:
        """Tell the board of jobs that ended, and what came of their cells."""
        import ray

        results: dict[str, Result] = {}
        for cell in chain.from_iterable(self.cells):
            if cell.job.key in ends and ends[cell.job.key] is None:
                try:
                    results[cell.key] = result_of(cell, self.jobs.store)
                except RunError as error:
                    results[cell.key] = str(error)
        ray.get(self.board.end.remote(ends, results))

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


def tracking_of(plan: SweepPlan, store: Store) -> Tracking:
    """The MLflow runs of a sweep: found again as long as its name, stage and base are the same."""
    file = plan.file
    base = {name: value for name, value in file.base.items() if name != "seeds"}
    settings = file.sweep.model_dump(mode="json", exclude_none=True)
    trials = {cell.key: cell.trial.varied for cell in plan.cells}
    digest = digest_of(["sweep", file.sweep.name, file.sweep.stage, base])
    return Tracking(file.sweep.name, digest, settings, store, trials)


class Notes:
    """What a sweep remembers of trials that have no result: by key, why.

    cells: the plan's if not given; a search proposes more.
    """

    def __init__(
        self, plan: SweepPlan, store: Store, what: str, cells: Sequence[Cell] | None = None
    ) -> None:
        self.own = {cell.key for cell in cells or plan.cells}
        self.store, self.name = store, f".sweeps/{plan.file.sweep.name}.{what}.json"

    def read(self) -> dict[str, str]:
        """Those of the sweep's present cells."""
        known = json.loads(self.store.note(self.name) or "{}")
        return {key: why for key, why in known.items() if key in self.own}

    def write(self, notes: dict[str, str]) -> None:
        """Replace them."""
        own = {key: why for key, why in notes.items() if key in self.own}
        self.store.write_note(self.name, json.dumps(own))


def stopped_before(plan: SweepPlan, store: Store) -> dict[str, str]:
    """The cells that the sweep's scheduler stopped in an earlier run, by key."""
    return Notes(plan, store, "stopped").read() if plan.file.sweep.stops else {}


def failed_before(plan: SweepPlan, store: Store) -> dict[str, str]:
    """The cells whose jobs failed in an earlier run, by key, with what they said."""
    return Notes(plan, store, "failed").read()
