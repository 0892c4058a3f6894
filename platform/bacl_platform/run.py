"""Runs a plan: one Ray task per missing job, whose only dependency is its parent's result.

Ray's scheduler runs the DAG. Each task drives a Ray Train run; the driver only watches: it reads
the queue that workers tell their progress to, shows it, and writes it to MLflow.
"""

import os
import shutil
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.errors import BaclError, RunError
from bacl_platform.plan import Job, Plan
from bacl_platform.progress import Progress
from bacl_platform.store import Store

if TYPE_CHECKING:
    from ray import ObjectRef
    from rich.console import Console

    from bacl_platform.tracking import Tracking

_OBJECT_STORE = 128 * 2**20
"""Bytes for Ray's object store: nothing large goes through it."""


def run(
    plan: Plan, store: Store, tracking: "Tracking", console: "Console", address: str | None = None
) -> None:
    """Run what the store lacks of a plan, on a new local Ray or on the cluster at `address`.

    Jobs whose parent failed are not run; the others go on. Raises RunError with a sentence for
    each job without a result. After that or Ctrl-C, finished jobs and the checkpoints of the
    others stay, and the same command goes on from them.
    """
    missing = plan.missing(store)
    with tracking:
        for job in plan.jobs:
            if job not in missing and not tracking.finished(job):
                tracking.finish(job, cached=True)
        if not missing:
            total = len(plan.jobs)
            console.print(f"nothing to do: {total} of {total} jobs are in the store")
            return
        with ExitStack() as ending, Progress(console) as progress:
            _start_ray(missing, address, ending)
            failures = _watch(missing, store, tracking, progress)
        if failures:
            raise RunError("\n".join(failures))


def _start_ray(jobs: list[Job], address: str | None, ending: ExitStack) -> None:
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RunError(f"expected a Ray cluster at {address}: {error}") from error
        ending.callback(ray.shutdown)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    asked = [(job, job.resources.workers) for job in jobs]
    folder = tempfile.mkdtemp(prefix="bacl-ray-")
    ending.callback(shutil.rmtree, folder, ignore_errors=True)
    # a dashboard, because without one Ray gives back the resources of a stopped run late
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, *(n * job.resources.cpus for job, n in asked)),
        include_dashboard=True,
        object_store_memory=_OBJECT_STORE,
        _temp_dir=folder,
        **quiet,
    )
    ending.callback(ray.shutdown)
    gpus = ray.cluster_resources().get("GPU", 0)
    lacking = [
        f"job {job.name}: expected {n * job.resources.gpus:g} GPUs for its {n} workers, "
        f"this machine has {gpus:g}"
        for job, n in asked
        if n * job.resources.gpus > gpus
    ]
    if lacking:
        raise RunError("\n".join(lacking))


def _watch(jobs: list[Job], store: Store, tracking: "Tracking", progress: Progress) -> list[str]:
    """Start all jobs and follow them to their end; the sentences of those without a result."""
    import ray
    from ray.util.queue import Queue

    events = Queue(actor_options={"num_cpus": 0})
    build = ray.remote(num_cpus=0)(_build)
    results: dict[str, ObjectRef] = {}
    for job in jobs:
        parent = results.get(job.parent) if job.parent else None
        results[job.key] = build.remote(job, store, events, parent)
    by_key = {job.key: job for job in jobs}
    running = dict(results)
    failures: dict[str, str] = {}
    while running:
        refs = list(running.values())
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0.5)
        for kind, key, content in events.get_nowait_batch(events.qsize()):
            _told(kind, by_key[key], content, tracking, progress)
        for key in [key for key, ref in running.items() if ref in done]:
            job = by_key[key]
            failure = _failure(job, running.pop(key))
            if failure is None:
                tracking.finish(job, cached=False)
                progress.end(job, "done")
            elif job.parent in failures:
                failures[key] = (
                    f"job {job.name} was not run: it starts from job {by_key[job.parent].name}"
                )
            else:
                tracking.fail(job, failure)
                progress.end(job, "failed")
                failures[key] = failure
    return list(failures.values())


def _told(kind: str, job: Job, content: Any, tracking: "Tracking", progress: Progress) -> None:
    if kind == "started":
        tracking.start(job)
        progress.begin(job, content)
    elif kind == "scalars":
        tracking.log(job, content)
        progress.move(job, content)
    elif kind == "checkpoint":
        progress.checkpoint(job, content)
    elif kind == "trouble":
        progress.say(f"{job.name}: {content}")


def _failure(job: Job, result: "ObjectRef") -> str | None:
    import ray

    try:
        return ray.get(result)
    except ray.exceptions.RayError as error:
        return f"job {job.name} ({job.key}) was lost by Ray: {_first_line(error)}"


def _build(job: Job, store: Store, events: Any, parent_failure: str | None) -> str | None:
    """Train one job, in a Ray task; the sentence to tell if that failed."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback
    from ray.train.torch import TorchTrainer

    if parent_failure is not None:
        return parent_failure
    # a report waits for the controller's next look at its workers, every two seconds if left alone
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

    class Listener(UserCallback):
        """Passes on what Ray Train's controller knows first."""

        def after_report(self, run_context: Any, metrics: list[dict], checkpoint: Any) -> None:
            if list(metrics[0]) == ["step"]:
                events.put_nowait(("checkpoint", job.key, metrics[0]["step"]))

        def after_exception(self, run_context: Any, worker_exceptions: dict) -> None:
            ranks = ", ".join(str(rank) for rank in sorted(worker_exceptions))
            reason = _first_line(next(iter(worker_exceptions.values())))
            events.put_nowait(("trouble", job.key, f"worker {ranks} stopped: {reason}"))

    asked, gpus = job.resources, job.resources.gpus
    environment = {"OMP_NUM_THREADS": str(asked.cpus)}
    if not gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    # a name of its own for every attempt: Ray Train would restore an earlier run of the same name,
    # and where training goes on is for the store's checkpoints to say
    name, storage = f"{job.key}-{uuid.uuid4().hex[:8]}", store.root / ".work" / ".ray"
    trainer = TorchTrainer(
        _train,
        train_loop_config={"job": job, "store": store, "events": events},
        scaling_config=ScalingConfig(
            num_workers=asked.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": asked.cpus, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=asked.retries),
            callbacks=[Listener()],
            worker_runtime_env={"env_vars": environment},
        ),
    )
    try:
        return trainer.fit().return_value
    except TrainingFailedError as error:
        return _sentence(job, store.work(job.key), error)
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)


def _train(config: dict[str, Any]) -> str | None:
    """What each Ray Train worker runs."""
    import ray.train

    from bacl_platform import worker

    if config["job"].resources.gpus:
        import torch
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())  # mmengine trains on the current device

    def tell(kind: str, key: str, content: Any) -> None:
        config["events"].put_nowait((kind, key, content))

    return worker.train(config["job"], config["store"], tell, ray.train.report)


def _sentence(job: Job, work: Path, error: Exception) -> str:
    causes = getattr(error, "worker_failures", {}).values()
    bare = [getattr(cause, "_base_exc", cause) for cause in causes]
    for cause in bare:
        if isinstance(cause, BaclError):
            return str(cause)
    reason = _first_line(bare[0] if bare else error)
    return (
        f"job {job.name} ({job.key}) failed {job.resources.retries + 1} times, the last time with: "
        f"{reason}; its log is {work / 'train.log'}"
    )


def _first_line(error: BaseException) -> str:
    error = getattr(error, "_base_exc", error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
