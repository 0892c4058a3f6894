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
from bacl_platform.train.messages import Message, Placed
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
    if store.bucket and "SPREAD" in job.resources.placement:
        return (
            f"job {job.name}: resources.placement: expected PACK or STRICT_PACK with a store in a "
            f"bucket, whose workers share a folder of one machine, got {job.resources.placement}"
        )
    # a report waits for the controller's next look at its workers, every two seconds if left alone
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # a worker that was halted, or whose machine was, answers no more: Ray Train replaces it
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(job.resources.patience)
    # a name of its own for every attempt: Ray Train would restore an earlier run of the same name,
    # and where training goes on is for the store's checkpoints to say
    name, storage = f"{job.key}-{uuid.uuid4().hex[:8]}", store.root / ".work" / ".ray"
    earlier = list(storage.glob(f"{job.key}-*"))
    try:
        failure = _trainer(job, store, mailbox, board, name, storage).fit().return_value
        if failure is None:  # nobody goes on from what the attempts of killed drivers left
            for left in earlier:
                shutil.rmtree(left, ignore_errors=True)
        return failure
    except TrainingFailedError as error:
        return sentence_of(job, error)
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)


def _trainer(
    job: Job, store: Store, mailbox: Any, board: Any, attempt: str, storage: Path
) -> "TorchTrainer":
    """The Ray Train run of an attempt at a job."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from bacl_platform.run.watcher import Watcher

    asked = job.resources
    return TorchTrainer(
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
        scaling_config=ScalingConfig(
            num_workers=asked.workers,
            use_gpu=asked.gpus > 0,
            resources_per_worker=of_worker(asked),
            # ranks hand their detections on in the job's folder, which with a bucket is a machine's
            placement_strategy="STRICT_PACK" if store.bucket else asked.placement,
            accelerator_type=asked.accelerator,
            label_selector=asked.labels or None,
        ),
        run_config=RunConfig(
            name=attempt,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=asked.retries),
            callbacks=[Watcher(mailbox, job.key)],
            worker_runtime_env=_worker_environment(job),
        ),
    )


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


def train_rank(config: dict[str, Any]) -> str | None:
    """What each Ray Train worker runs."""
    import ray.train

    mailbox, attempt = config["mailbox"], config["attempt"]
    mailbox.tell.remote(Placed(config["job"].key))
    # Ray Train starts the ranks again whatever one of them failed with
    if (sentence := ray.get(mailbox.given_up.remote(attempt))) is not None:
        return sentence

    from bacl_platform.train import worker

    if config["job"].resources.gpus:
        import torch
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())  # mmengine trains on the current device

    def tell(message: Message) -> None:
        ray.get(mailbox.tell.remote(message))

    def asked_to_stop() -> bool:
        return ray.get(mailbox.asked_to_stop.remote(), timeout=300)

    job, board = config["job"], config["board"]
    rank, node = ray.train.get_context().get_world_rank(), ray.get_runtime_context().get_node_id()
    ray.get(mailbox.place.remote(job.key, rank, node, os.getpid()))
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
        )
    except Exception as error:
        if lasts(error):
            ray.get(mailbox.give_up.remote(attempt, failure(job.name, job.key, error)))
        raise
