"""What a job needs of a bucket, on the machine that it runs on."""

from bacl.errors import RunError
from bacl_platform.plan.job import Job
from bacl_platform.store import prepared_datasets, unfinished, weights
from bacl_platform.store.store import Store


def bring(job: Job, store: Store) -> None:
    """Have here what a job needs of a bucket: its dataset, the weights that it begins with, its
    parent, what it has done before."""
    if store.bucket is None:
        return
    prepared_datasets.pull(store, job.dataset_digest)
    weights.pull(store, job.config)
    if job.parent is not None and not store.complete(job.parent):
        raise RunError(
            f"job {job.name} ({job.key}): expected its parent {job.parent} in {store.url}, found "
            "none that is whole: run the same command again, which makes it anew"
        )
    unfinished.pull(store, job.key)
