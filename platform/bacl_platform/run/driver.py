"""Runs a plan: one Ray task per missing job, whose only dependency is its parent's result.

Ray's scheduler runs the DAG. Each task drives a Ray Train run; the driver only watches: it reads
what workers tell of their progress, shows it, and writes it to MLflow.
"""

import gc
import importlib
import math
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from bacl.errors import RunError, unwrapped
from bacl_platform.plan.job import Job, Plan
from bacl_platform.run import cluster
from bacl_platform.run.placement import groups_of, lacking, of_worker, waiting_for
from bacl_platform.run.progress import Progress
from bacl_platform.store import prepared_datasets
from bacl_platform.store.failures import clear_failure, logs_command, note_failure
from bacl_platform.store.store import Store
from bacl_platform.train.retries import failure, lasts

if TYPE_CHECKING:
    from ray import ObjectRef
    from rich.console import Console

    from bacl_platform.tracking.tracking import Tracking

_OBJECT_STORE = 128 * 2**20
"""Bytes for Ray's object store: nothing large goes through it."""
LOOK_EVERY = 3.0
"""Seconds, at least, between looks which jobs wait for room on the cluster."""
STOP_PATIENCE = 30.0
"""Seconds that a driver which was asked to end waits for its jobs' checkpoints."""


def run(
    plan: Plan, store: Store, tracking: "Tracking", console: "Console", address: str | None = None
) -> None:
    """Run what the store lacks of a plan, on a new local Ray or on the cluster at `address`.

    Jobs whose parent failed are not run; the others go on. Raises RunError with a sentence for
    each job without a result. After that or Ctrl-C, on which jobs write a checkpoint first,
    finished jobs and the others' checkpoints stay, and the same command goes on from them.
    """
    missing = plan.missing(store)
    with tracking:
        for job in plan.jobs:
            if job not in missing:
                tracking.finish(job, cached=True)
        if not missing:
            total = len(plan.jobs)
            console.print(f"nothing to do: {total} of {total} jobs are in the store")
            return
        with ray_for(missing, address, console), Progress(console) as progress:
            jobs = Jobs(store, [tracking], progress)
            try:
                for job in missing:
                    jobs.submit(job)
                while jobs.running:
                    jobs.poll()
            except KeyboardInterrupt:
                jobs.stop()
                raise
        jobs.raise_failures()


@contextmanager
def ray_for(jobs: list[Job], address: str | None, console: "Console") -> Iterator[None]:
    """Ray at `address`, or a new local one with cores for the largest of the jobs; ended after.

    Raises RunError where it cannot be reached, or has no room for a job and never will.
    """
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with ExitStack() as ending:
        _start_ray(jobs, address, console, ending)
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end the driver at once
        yield


def _start_ray(jobs: list[Job], address: str | None, console: "Console", ending: ExitStack) -> None:
    found = cluster.chosen(address)
    if found is not None:
        cluster.reach(found)  # before Ray is imported, which reads how to ask for access then

    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if found is not None:
        ray.init(address=found.address, **quiet)
        ending.callback(_end_ray)
        check_room(jobs, ray.nodes(), console)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # one machine's own Ray is not drained before it is reclaimed
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    cpus = [job.resources.workers * job.resources.cpus for job in jobs]
    folder = tempfile.mkdtemp(prefix=cluster.PRIVATE)
    ending.callback(shutil.rmtree, folder, ignore_errors=True)
    # without a dashboard Ray gives back the resources of a stopped run late, which only others want
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, *cpus),
        include_dashboard=len(jobs) > 1,
        object_store_memory=_OBJECT_STORE,
        _temp_dir=folder,
        **quiet,
    )
    ending.callback(_end_ray)
    if lacks := lacking(jobs, ray.nodes(), "this machine"):
        raise RunError("\n".join(lacks))


def _end_ray() -> None:
    """End Ray. It ends this process where another thread's garbage collection, the MLflow sender's
    say, drops a handle of Ray's just then, so that none is left to collect."""
    import ray

    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def check_room(jobs: Sequence[Job], nodes: Sequence[Mapping[str, Any]], console: "Console") -> None:
    """Raise RunError where a cluster has no room for a job; of one that may grow, only warn.

    nodes: as `ray.nodes()` gives them. Those that an autoscaler may add to are of a group.
    """
    lacks = lacking(jobs, nodes, "the cluster")
    if lacks and not any("ray.io/node-group" in (node.get("Labels") or {}) for node in nodes):
        raise RunError("\n".join(lacks))
    for sentence in lacks:
        text = f"warning: {sentence} so far: the job waits for more nodes"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def pending_groups() -> list[list[dict[str, float]]]:
    """What this driver asked Ray for and has not got: resources of each worker, for each job."""
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
    """What is told of jobs; `bacl_platform.tracking.tracking.Tracking` is one."""

    def start(self, job: Job) -> None: ...
    def log(self, job: Job, rows: list[dict[str, Any]]) -> None: ...
    def finish(self, job: Job, cached: bool) -> None: ...
    def fail(self, job: Job, sentence: str, variants: Collection[str] | None = None) -> None: ...


class Wire:
    """What jobs tell the driver, and what it asks of them. A Ray actor.

    Not a file in the store: network file systems show a new file to other nodes up to a minute
    late, and a driver that was asked to end has less than that.
    """

    def __init__(self) -> None:
        self._told: list[tuple[str, str, Any]] = []
        self._stop = False
        self._places: dict[tuple[str, int], tuple[str, int]] = {}
        self._given_up: dict[str, str] = {}

    def give_up(self, attempt: str, sentence: str) -> None:
        """A rank of a job has failed as it would again: none shall be started anew."""
        self._given_up[attempt] = sentence

    def given_up(self, attempt: str) -> str | None:
        """What that rank told, if one did."""
        return self._given_up.get(attempt)

    def place(self, key: str, rank: int, node: str, process: int) -> None:
        """Where a rank of a job is: node and process id."""
        self._places[key, rank] = (node, process)

    def placed(self, key: str, rank: int) -> tuple[str, int] | None:
        """Where a rank of a job said it is."""
        return self._places.get((key, rank))

    def tell(self, kind: str, key: str, content: Any) -> None:
        """A job has something to say."""
        self._told.append((kind, key, content))

    def told(self) -> list[tuple[str, str, Any]]:
        """What jobs said since the last call."""
        told, self._told = self._told, []
        return told

    def ask_to_stop(self) -> None:
        """All jobs shall write a checkpoint and end."""
        self._stop = True

    def asked_to_stop(self) -> bool:
        """Whether jobs shall end."""
        return self._stop


def beside_driver() -> dict[str, Any]:
    """Options of tasks and actors that must not be lost with a node that the driver is not on."""
    import ray

    return _on(ray.get_runtime_context().get_node_id())


def _on(node: str) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _kill(wire: Any, key: str, rank: int) -> None:
    """Kill a rank that does not answer: Ray's own way waits most of a minute for its answer."""
    import ray

    placed = ray.get(wire.placed.remote(key, rank))
    if placed is not None:
        node, process = placed
        ray.remote(_kill_process).options(max_retries=0, **_on(node)).remote(process)


def _kill_process(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


class Jobs:
    """Starts jobs as Ray tasks, follows them, and tells trackers and terminal what they say."""

    def __init__(
        self,
        store: Store,
        listeners: Sequence[Listener],
        progress: Progress,
        wire: Any = None,
        board: Any = None,
    ) -> None:
        import ray

        self.store, self.listeners, self.progress = store, listeners, progress
        self.wire = wire or ray.remote(Wire).options(**beside_driver()).remote()
        self.board = board
        self.running: dict[str, ObjectRef] = {}
        self.failures: dict[str, str] = {}
        """Sentences of the jobs that ended without a result."""
        self.failed_variants: dict[str, str] = {}
        """Sentences of single variants that did, of jobs that went on, by the variant's key."""
        self._jobs: dict[str, Job] = {}
        self._results: dict[str, ObjectRef] = {}
        self._training: set[str] = set()
        self._placed: set[str] = set()
        """Jobs whose workers have their places on the cluster."""
        self._stopping, self._deadline = False, math.inf
        self._looked = time.monotonic()
        self._waiting: dict[str, str] = {}
        """What jobs waited for at the last look."""
        self._build = ray.remote(_build).options(**beside_driver())

    def submit(self, job: Job) -> None:
        """Start a job, after its parent's end if that was submitted; a job that failed starts anew.

        A job that runs already, or is done, is left alone.
        """
        if job.key in self._results and job.key not in self.failures:
            return
        self.failures.pop(job.key, None)
        clear_failure(self.store, job.key)
        parent = self._results.get(job.parent) if job.parent else None
        self._jobs[job.key] = job
        prepared_datasets.push(self.store, job.dataset_digest)
        started = self._build.remote(job, self.store, self.wire, self.board, parent)
        self._results[job.key] = self.running[job.key] = started

    def fits(self, job: Job) -> bool:
        """Whether the cluster has room for a job beside those that run, or none runs.

        Ray would let it wait as well, but with a controller and its helpers for each that waits.
        """
        import ray

        if not self.running:
            return True
        asked = [self._jobs[key].resources for key in self.running] + [job.resources]
        total = ray.cluster_resources()
        return all(
            sum(r.workers * getattr(r, f"{kind.lower()}s") for r in asked) <= total.get(kind, 0)
            for kind in ("CPU", "GPU")
        )

    def poll(self) -> list[Job]:
        """Wait for at most half a second and pass on what was told; the jobs that ended."""
        import ray

        refs = list(self.running.values())
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0.5) if refs else ([], [])
        for kind, key, content in ray.get(self.wire.told.remote()):
            self._told(kind, self._jobs[key], content)
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._look_who_waits()
        ended = [self._jobs[key] for key, ref in self.running.items() if ref in done]
        for job in ended:
            self._end(job, _failure(job, self.running.pop(job.key)))
        return ended

    def _look_who_waits(self) -> None:
        """Tell for what jobs wait that did at the last look as well."""
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

        ray.get(self.wire.ask_to_stop.remote())
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
        """End a `stop` that another thread is in, at its next look."""
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
        else:
            note_failure(self.store, job.key, failure)
            failure = f"{failure}; its last log lines: {logs_command(self.store, job.key)}"
            for listener in self.listeners:
                listener.fail(job, failure)
            self.progress.end(job, "failed")
            self.failures[job.key] = failure

    def _told(self, kind: str, job: Job, content: Any) -> None:
        if kind == "started":
            self._training.add(job.key)
            self.progress.begin(job, content)
        elif kind == "scalars":
            self.progress.move(job, content)
        elif kind == "checkpoint":
            self.progress.checkpoint(job, content)
        elif kind == "placed":
            self._placed.add(job.key)
        elif kind == "trouble":
            self._placed.discard(job.key)
            self.progress.say(f"{job.name}: {content}")
        elif kind == "failed":
            for variant, sentence in content.items():
                self.failed_variants[job.variant_keys[variant]] = sentence
                self.progress.say(
                    f"{job.name}: variant {variant} has failed, the others go on: {sentence}"
                )
        for listener in self.listeners:
            if kind == "started":
                listener.start(job)
            elif kind in ("scalars", "system"):
                listener.log(job, content)
            elif kind == "failed":
                for variant, sentence in content.items():
                    listener.fail(job, sentence, [variant])


def _failure(job: Job, result: "ObjectRef") -> str | None:
    import ray

    try:
        return ray.get(result)
    except ray.exceptions.RayError as error:
        return f"job {job.name} ({job.key}) was lost by Ray: {_first_line(error)}"


def _build(job: Job, store: Store, wire: Any, board: Any, parent_failure: str | None) -> str | None:
    """Train one job, in a Ray task; the sentence to tell if that failed or was stopped.

    wire: where the driver and its jobs meet. board: where a sweep that stops trials says which;
    else None.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback
    from ray.train.torch import TorchConfig, TorchTrainer

    if parent_failure is not None:
        return parent_failure
    if ray.get(wire.asked_to_stop.remote()):
        return f"job {job.name} ({job.key}) was stopped before it began"
    if store.bucket and "SPREAD" in job.resources.placement:
        return (
            f"job {job.name}: resources.placement: expected PACK or STRICT_PACK with a store in a "
            f"bucket, whose workers share a folder of one machine, got {job.resources.placement}"
        )
    # a report waits for the controller's next look at its workers, every two seconds if left alone
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # a worker that was halted, or whose machine was, answers no more: Ray Train replaces it
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(job.resources.patience)

    class Watcher(UserCallback):
        """Passes on what Ray Train's controller knows first."""

        def after_report(self, run_context: Any, metrics: list[dict], checkpoint: Any) -> None:
            if list(metrics[0]) == ["step"]:
                wire.tell.remote("checkpoint", job.key, metrics[0]["step"])

        def after_exception(self, run_context: Any, worker_exceptions: dict) -> None:
            ranks = ", ".join(str(rank) for rank in sorted(worker_exceptions))
            reason = _first_line(next(iter(worker_exceptions.values())))
            for rank, error in worker_exceptions.items():
                if type(error).__name__ == "WorkerHealthCheckTimeoutError":  # internal to Ray
                    _kill(wire, job.key, rank)
            wire.tell.remote("trouble", job.key, f"worker {ranks} stopped: {reason}")

    asked, gpus = job.resources, job.resources.gpus
    environment: dict[str, Any] = {"env_vars": {"OMP_NUM_THREADS": str(asked.cpus)}}
    if not gpus:
        environment["env_vars"]["CUDA_VISIBLE_DEVICES"] = ""
        # importing looks for a GPU, which must not be before Ray has said which ones are the rank's
        if "worker_process_setup_hook" not in ray.get_runtime_context().runtime_env:
            environment["worker_process_setup_hook"] = "bacl_platform.run.driver.import_worker"
    # a name of its own for every attempt: Ray Train would restore an earlier run of the same name,
    # and where training goes on is for the store's checkpoints to say
    name, storage = f"{job.key}-{uuid.uuid4().hex[:8]}", store.root / ".work" / ".ray"
    earlier = list(storage.glob(f"{job.key}-*"))
    trainer = TorchTrainer(
        _train,
        train_loop_config={
            "job": job,
            "store": store,
            "wire": wire,
            "board": board,
            "attempt": name,
        },
        # ranks wait for each other while one evaluates or publishes, so their patience stays Ray's
        torch_config=TorchConfig(backend=None if asked.backend == "auto" else asked.backend),
        scaling_config=ScalingConfig(
            num_workers=asked.workers,
            use_gpu=gpus > 0,
            resources_per_worker=of_worker(asked),
            # ranks hand their detections on in the job's folder, which with a bucket is a machine's
            placement_strategy="STRICT_PACK" if store.bucket else asked.placement,
            accelerator_type=asked.accelerator,
            label_selector=asked.labels or None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=asked.retries),
            callbacks=[Watcher()],
            worker_runtime_env=environment,
        ),
    )
    try:
        failure = trainer.fit().return_value
        if failure is None:  # nobody goes on from what the attempts of killed drivers left
            for left in earlier:
                shutil.rmtree(left, ignore_errors=True)
        return failure
    except TrainingFailedError as error:
        return _sentence(job, error)
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)


def import_worker() -> None:
    """Begin to import what a Train worker needs, while Ray Train still gathers the workers."""
    name = "bacl_platform.train.worker"
    threading.Thread(target=importlib.import_module, args=[name], daemon=True).start()


def _train(config: dict[str, Any]) -> str | None:
    """What each Ray Train worker runs."""
    import ray.train

    wire, attempt = config["wire"], config["attempt"]
    wire.tell.remote("placed", config["job"].key, None)
    # Ray Train starts the ranks again whatever one of them failed with
    if (sentence := ray.get(wire.given_up.remote(attempt))) is not None:
        return sentence

    from bacl_platform.train import worker

    if config["job"].resources.gpus:
        import torch
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())  # mmengine trains on the current device

    def tell(kind: str, key: str, content: Any) -> None:
        ray.get(wire.tell.remote(kind, key, content))

    def asked_to_stop() -> bool:
        return ray.get(wire.asked_to_stop.remote(), timeout=300)

    job, board = config["job"], config["board"]
    rank, node = ray.train.get_context().get_world_rank(), ray.get_runtime_context().get_node_id()
    ray.get(wire.place.remote(job.key, rank, node, os.getpid()))
    names = {key: name for name, key in job.variant_keys.items()}

    def stopped(evaluations: int) -> list[str]:
        keys = ray.get(board.verdict.remote(list(names), evaluations), timeout=300)
        return [names[key] for key in keys]

    try:
        return worker.train(
            job,
            config["store"],
            tell,
            ray.train.report,
            stopped if board is not None else None,
            asked_to_stop,
        )
    except Exception as error:
        if lasts(error):
            ray.get(wire.give_up.remote(attempt, failure(job.name, job.key, error)))
        raise


def _sentence(job: Job, error: Exception) -> str:
    causes = getattr(error, "worker_failures", {}).values()
    bare = [getattr(cause, "_base_exc", cause) for cause in causes]
    for cause in bare:
        if lasts(cause):
            return failure(job.name, job.key, cause)
    reason = _first_line(bare[0] if bare else error)
    times = job.resources.retries + 1
    often = f" {times} times, the last time with" if times > 1 else ""
    return f"job {job.name} ({job.key}) failed{often}: {reason}"


def _first_line(error: BaseException) -> str:
    error = getattr(error, "_base_exc", error)
    lines = unwrapped(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
