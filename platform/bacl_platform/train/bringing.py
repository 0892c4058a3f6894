"""What the machines of a job need of the store, and what is left on them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import barrier

from bacl.errors import RunError
from bacl.exchange import hand_out
from bacl_platform.plan.job import Job
from bacl_platform.store import prepared_datasets, sample, unfinished, weights
from bacl_platform.store.manifest import broken
from bacl_platform.store.store import Store
from bacl_platform.train.ranks import Machines, machines, together


def bring(job: Job, store: Store) -> Machines:
    """Have on each machine what the job needs: its dataset, the weights that it begins with, its
    parent; and on rank 0's what it has done before.

    Called by all ranks. Raises Agreed on all of them where a machine cannot have it, cannot write
    to the bucket, or has other images than the machine that planned the job.
    """
    found = machines(store)
    found.each(lambda: _have(job, store))
    found.every(lambda: _check_data(job, store) if found.on_host or found.first else None)
    together(lambda: unfinished.pull(store, job.key))
    return found


def _have(job: Job, store: Store) -> None:
    if store.bucket is None:
        return
    unfinished.drop_finished(store)
    store.bucket.check_writable(f".work/{job.key}/.written-by-{store.identity()}")
    prepared_datasets.pull(store, job.dataset_digest)
    weights.pull(store, job.config)
    needed = {"parent": job.parent, "features": job.features_from}
    for what, key in needed.items():
        if key is not None and not store.complete(key):
            raise RunError(
                f"job {job.name} ({job.key}): expected its {what} {key} in {store.url}, found "
                "none that is whole: run the same command again, which makes it anew"
            )


def _check_data(job: Job, store: Store) -> None:
    if not (described := _description(job)).exists():
        raise RunError(
            f"{described}: expected the prepared dataset, found none: the store must be a folder "
            "that all nodes see, or a bucket"
        )
    sample.check(store, job.dataset_digest, job.config)


def _description(job: Job) -> Path:
    """The file that says what the job's dataset is."""
    places = (job.config.get("val_evaluator", {}), job.config["val_dataloader"]["dataset"])
    return next(Path(place["dataset_info"]) for place in places if "dataset_info" in place)


@contextmanager
def handed_out(checkpoint: Path, key: str, at: Machines) -> Iterator[Path]:
    """Within, the folder of a checkpoint of rank 0 as this rank's machine has it; called by all
    ranks.

    Other machines get a copy for the time being. It is not among their own checkpoints, which they
    might go on from later without what the job logs besides.
    """
    if not at.several:
        yield checkpoint
        return
    received = at.store.work(key) / "received"
    copy = checkpoint if at.main else received / checkpoint.name
    hand_out(checkpoint, copy, keeps=at.first and not at.main)
    at.each(lambda: _check_copy(copy))
    yield copy
    barrier()
    if not at.main:
        shutil.rmtree(received, ignore_errors=True)


def _check_copy(folder: Path) -> None:
    if problem := broken(folder):
        raise RunError(f"{folder}: expected the checkpoint that rank 0 goes on from, {problem}")


def leave(job: Job, at: Machines) -> None:
    """Drop what the machines besides rank 0's have of a job that has ended; called by all ranks."""
    if not at.main:
        shutil.rmtree(at.store.work(job.key), ignore_errors=True)
