"""Makes the entry of a job that is evaluated once and does not train."""

import logging
import time
from collections.abc import Callable

from bacl_platform.plan.job import Job
from bacl_platform.store.disk import write_text
from bacl_platform.store.names import JOB, SCALARS
from bacl_platform.store.store import Store
from bacl_platform.train.bringing import bring, leave
from bacl_platform.train.hooks.scalars import Scalars
from bacl_platform.train.hooks.unlimited import Unlimited
from bacl_platform.train.messages import Report, Tell
from bacl_platform.train.model import bare_model
from bacl_platform.train.publish import described, publish
from bacl_platform.train.ranks import Machines, together
from bacl_platform.train.runner import JobRunner, runner_config


def evaluate(
    job: Job,
    store: Store,
    tell: Tell,
    report: Report,
    load: Callable[[JobRunner, Machines], None],
) -> None:
    """Evaluate the detector that `load` gives its weights, over all ranks, and publish the entry.

    load: called by all ranks.
    """
    work = store.work(job.key)
    results = work / "entry"
    at = bring(job, store)
    at.each(lambda: results.mkdir(parents=True, exist_ok=True))
    together(lambda: write_text(work / JOB, described(job)))
    scalars = Scalars(job, work / SCALARS, tell, report)
    config = runner_config(job, store, results)
    config.pop("train_cfg")  # which says that nothing trains
    runner = JobRunner.from_cfg(config)
    logging.getLogger("bacl_platform").handlers = runner.logger.handlers

    def begin() -> None:
        load(runner, at)
        together(lambda: scalars.start(0))

    runner.begin = begin
    runner.register_hook(scalars, priority="BELOW_NORMAL")
    runner.register_hook(Unlimited(), priority="NORMAL")
    began = time.perf_counter()
    try:
        runner.val()
    except Exception:
        runner.logger.exception("job %s stopped", job.key)
        raise
    seconds = time.perf_counter() - began
    together(lambda: publish(job, store, results, bare_model(runner.model), seconds))
    leave(job, at)
