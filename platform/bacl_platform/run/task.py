"""One job, in a Ray task that drives a Ray Train run, and what each of its workers does."""

import importlib
import os
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl_platform.plan.job import Job
from bacl_platform.plan.rehearsed import REHEARSAL
from bacl_platform.run.failures import sentence_of
from bacl_platform.run.placement import of_worker
from bacl_platform.store.store import Store
from bacl_platform.train.messages import Message, Moved, Placed, Reached, Troubled
from bacl_platform.train.retries import failure, lasts

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer


def build(
    job: Job, store: Store, mailbox: Any, board: Any, parent_failure: str | None
) -> str | None:
    """Train one job, in a Ray task. Returns why it failed or was stopped, in a sentence, else None.

    mailbox: for messages between the driver and its jobs. board: the actor that knows which trials
    a sweep has stopped; None where none can be.
    """
    import ray
    from ray.train import TrainingFailedError

    if parent_failure is not None:
        return parent_failure
    if ray.get(mailbox.asked_to_stop.remote()):
        return f"job {job.name} ({job.key}) was stopped before it began"
    # a report waits for the controller's next look at its workers, every two seconds if left alone
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # a worker that was halted, or whose machine was, answers no more: Ray Train replaces it
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(job.resources.patience)
    # a machine may be reclaimed within half a minute
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    earlier = list((store.root / ".work" / ".ray").glob(f"{job.key}-*"))
    try:
        while isinstance(ended := _attempt(job, store, mailbox, board), Moved):
            if ray.get(mailbox.asked_to_stop.remote()):
                return f"job {job.name} ({job.key}) was stopped at {job.unit} {ended.step}"
            again = f"{ended.why}: its workers start again from {job.unit} {ended.step}"
            mailbox.tell.remote(Troubled(job.key, again))
    except TrainingFailedError as error:
        return sentence_of(job, error)
    if ended is None:  # nobody goes on from what the attempts of killed drivers left
        for left in earlier:
            shutil.rmtree(left, ignore_errors=True)
    return ended


def _attempt(job: Job, store: Store, mailbox: Any, board: Any) -> Moved | str | None:
    """One start of a job's workers, which Ray Train repeats where they die; returns what
    `train_rank` does."""
    # a name of its own for every attempt: Ray Train would restore an earlier run of the same name,
    # and where training goes on is for the store's checkpoints to say
    name, storage = f"{job.key}-{uuid.uuid4().hex[:8]}", store.root / ".work" / ".ray"
    try:
        return _trainer(job, store, mailbox, board, name, storage).fit().return_value
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)


def _trainer(
    job: Job, store: Store, mailbox: Any, board: Any, attempt: str, storage: Path
) -> "TorchTrainer":
    """The Ray Train run of an attempt at a job."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from bacl_platform.run.scaling import DividingPolicy, PolicyTrainer
    from bacl_platform.run.watcher import Reclaimed, Terminated, Watcher

    asked = job.resources
    scaling = ScalingConfig(
        num_workers=asked.workers,
        elastic_resize_monitor_interval_s=asked.grow_after,
        use_gpu=asked.gpus > 0,
        resources_per_worker=of_worker(asked),
        placement_strategy=asked.placement,
        accelerator_type=asked.accelerator,
        label_selector=asked.labels or None,
    )
    # an evaluation has no checkpoints to go on from
    moves = [] if job.only_evaluated else [one(mailbox, attempt) for one in (Reclaimed, Terminated)]
    trainer = PolicyTrainer(
        train_rank,
        train_loop_config={
            "job": job,
            "store": store,
            "mailbox": mailbox,
            "board": board,
            "attempt": attempt,
        },
        # ranks wait for each other while one evaluates or publishes, so their patience stays Ray's
        torch_config=TorchConfig(backend=None if asked.backend == "auto" else asked.backend),
        scaling_config=scaling,
        run_config=RunConfig(
            name=attempt,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=asked.retries),
            callbacks=[Watcher(mailbox, job.key), *moves],
            worker_runtime_env=_worker_environment(job),
        ),
    )
    if asked.elastic:
        trainer.scaling = DividingPolicy(scaling, job, mailbox, attempt)
    return trainer


def _worker_environment(job: Job) -> dict[str, Any]:
    """Ray's runtime environment of a job's workers."""
    import ray

    variables = {"OMP_NUM_THREADS": str(job.resources.cpus)}
    if job.resources.gpus:
        return {"env_vars": variables}
    environment: dict[str, Any] = {"env_vars": {**variables, "CUDA_VISIBLE_DEVICES": ""}}
    # importing looks for a GPU, which must not be before Ray has said which ones are the rank's
    if "worker_process_setup_hook" not in ray.get_runtime_context().runtime_env:
        environment["worker_process_setup_hook"] = "bacl_platform.run.task.import_worker"
    return environment


def import_worker() -> None:
    """Begin to import what a Train worker needs, while Ray Train still gathers the workers."""
    name = "bacl_platform.train.worker"
    threading.Thread(target=importlib.import_module, args=[name], daemon=True).start()


def train_rank(config: dict[str, Any]) -> Moved | str | None:
    """What each Ray Train worker runs."""
    import ray.train

    mailbox, attempt = config["mailbox"], config["attempt"]
    mailbox.tell.remote(Placed(config["job"].key))
    # Ray Train starts the ranks again whatever one of them failed with
    if (sentence := ray.get(mailbox.given_up.remote(attempt))) is not None:
        return sentence

    from bacl_platform.train import worker
    from bacl_platform.train.attempts import Attempt, Moving

    if config["job"].resources.gpus:
        import torch
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())  # mmengine trains on the current device

    def tell(message: Message) -> None:
        ray.get(mailbox.tell.remote(message))

    def asked_to_stop() -> bool:
        return ray.get(mailbox.asked_to_stop.remote(), timeout=300)

    def asked_to_move(reached: Reached) -> str | None:
        return ray.get(mailbox.asked_to_move.remote(job.key, attempt, reached), timeout=300)

    job, board = config["job"], config["board"]
    rank, node = ray.train.get_context().get_world_rank(), ray.get_runtime_context().get_node_id()
    ray.get(mailbox.place.remote(job.key, rank, node, os.getpid()))
    if rank == 0:
        ray.get(mailbox.start.remote(attempt))
    before = ray.get(mailbox.reached.remote(job.key))
    names = {key: name for name, key in job.variant_keys.items()}

    def stopped(evaluations: int) -> list[str]:
        keys = ray.get(board.verdict.remote(list(names), evaluations), timeout=300)
        return [names[key] for key in keys]

    train: Callable[..., str | None] = worker.train
    if REHEARSAL in job.config:
        from bacl_platform.train import rehearsing

        train = rehearsing.train
    try:
        return train(
            job,
            config["store"],
            tell,
            ray.train.report,
            stopped if board is not None else None,
            asked_to_stop,
            Attempt(asked_to_move, before),
        )
    except Moving as moving:
        return Moved(moving.step, moving.why)
    except Exception as error:
        if lasts(error):
            ray.get(mailbox.give_up.remote(attempt, failure(job.name, job.key, error)))
        raise
