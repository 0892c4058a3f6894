"""Makes the entry of a job of kind `corrections`: trained variants with corrected scores, all
evaluated in one pass of the trunk."""

from typing import Any

from mmengine.runner import Runner

from bacl.corrections.statistics import observe
from bacl.corrections.warmstart import load_corrected
from bacl_platform.plan.job import Job
from bacl_platform.store.names import CHECKPOINT
from bacl_platform.store.store import Store
from bacl_platform.train.evaluating import evaluate
from bacl_platform.train.messages import Report, Tell
from bacl_platform.train.model import bare_model
from bacl_platform.train.ranks import Machines
from bacl_platform.train.runner import JobRunner, share


def correct(job: Job, store: Store, tell: Tell, report: Report) -> None:
    """Take the trained variants' weights, and statistics where a correction needs them, evaluate
    over all ranks, and publish the entry."""

    def load(runner: JobRunner, at: Machines) -> None:
        assert job.parent is not None
        model = bare_model(runner.model)
        checkpoint = store.entry(job.parent) / CHECKPOINT
        at.every(lambda: load_corrected(model, checkpoint))
        share(model, job, store, model.frozen_parts, runner.logger)
        shown: Any = runner.cfg.get("statistics_dataloader")
        if shown is not None:
            loader = Runner.build_dataloader(shown, seed=job.seed)
            count = observe(model, loader)
            runner.logger.info("statistics of %d training images", count)

    evaluate(job, store, tell, report, load)
