"""Trains one job: the only module of the platform that drives mmengine.

Every rank calls `train`. What only rank 0 does (locks, files) goes through `together`, so that
either all ranks go on or all stop with the same sentence.
"""

import contextlib
import logging
import time

import torch
from mmengine.dist import get_world_size

from bacl.averaging import averaging
from bacl_platform.plan.job import Job
from bacl_platform.store import unfinished
from bacl_platform.store.disk import disk_errors, write_text
from bacl_platform.store.names import CHECKPOINTS, JOB, MOVES, SCALARS, STOPPED
from bacl_platform.store.store import Store
from bacl_platform.train.attempts import Attempt, Interrupted, Moving
from bacl_platform.train.bringing import bring, leave
from bacl_platform.train.hooks.checkpoints import Checkpoints
from bacl_platform.train.hooks.finite_loss import FiniteLoss
from bacl_platform.train.hooks.leaving import LeavingVariants, NoneLeft
from bacl_platform.train.hooks.population import PopulationBasedTraining
from bacl_platform.train.hooks.scalars import LOG_EVERY, Scalars
from bacl_platform.train.hooks.system import System
from bacl_platform.train.hooks.unlimited import Unlimited
from bacl_platform.train.messages import Asked, Report, Stopped, Tell
from bacl_platform.train.model import bare_model
from bacl_platform.train.publish import described, publish
from bacl_platform.train.ranks import Agreed, together
from bacl_platform.train.retention import Retention
from bacl_platform.train.retries import failure, lasts
from bacl_platform.train.runner import JobRunner, begin, runner_config


def train(
    job: Job,
    store: Store,
    tell: Tell,
    report: Report,
    stopped: Stopped | None = None,
    asked_to_stop: Asked | None = None,
    attempt: Attempt | None = None,
) -> str | None:
    """Train, evaluate and publish a job, from its newest checkpoint if it has one.

    tell: takes the messages of rank 0. report: called by all ranks together. stopped: called with
    the number of evaluations so far; the variants that it returns leave the bank, and a job without
    any left ends without an entry in the store. asked_to_stop: called every few seconds. attempt:
    what this start of the job's workers knows of others.

    Returns why in a sentence where the job was asked to stop, or would fail again however often it
    is retried, else None. Other errors are raised; so is one that would come again but that only
    one of several ranks has, because the others wait for that rank. Raises Moving where the attempt
    should end for another.
    """
    attempt = attempt or Attempt()
    torch.set_num_threads(job.resources.cpus)
    job = job.model_copy(update={"config": store.localised(job.config)})
    try:
        with contextlib.ExitStack() as held, disk_errors(store.root):
            together(lambda: held.enter_context(store.lock(job.key)))
            if not together(lambda: store.complete(job.key)):
                if job.kind == "features":
                    from bacl_platform.train.recording import record

                    record(job, store, tell, asked_to_stop, attempt)
                elif job.kind == "imported":
                    from bacl_platform.train.importing import take_in

                    take_in(job, store, tell, report)
                elif job.kind == "corrections":
                    from bacl_platform.train.correcting import correct

                    correct(job, store, tell, report)
                else:
                    _train(job, store, tell, report, stopped, asked_to_stop, attempt)
    except Moving:
        raise
    except Exception as error:
        if isinstance(error, Agreed) or (lasts(error) and get_world_size() == 1):
            return failure(job.name, job.key, error)
        raise
    return None


def _train(
    job: Job,
    store: Store,
    tell: Tell,
    report: Report,
    stopped: Stopped | None,
    asked_to_stop: Asked | None,
    attempt: Attempt,
) -> None:
    work = store.work(job.key)
    results = work / "entry"
    at = bring(job, store)
    at.each(lambda: results.mkdir(parents=True, exist_ok=True))
    together(lambda: write_text(work / JOB, described(job, workers=get_world_size())))
    scalars = Scalars(job, work / SCALARS, tell, report)
    runner = JobRunner.from_cfg(runner_config(job, store, results))
    logging.getLogger("bacl_platform").handlers = runner.logger.handlers
    stops = LeavingVariants(job, work / STOPPED, tell, stopped)
    moves = PopulationBasedTraining(job, work / MOVES) if job.population else None
    uploads = unfinished.Uploads(store, job.key)
    retention = Retention(job, work)
    try:
        runner.begin = lambda: begin(runner, job, at, scalars, stops, attempt)
        checkpoints = work / CHECKPOINTS
        runner.register_hook(FiniteLoss(job, checkpoints, stops), priority="VERY_HIGH")
        if moves is not None:  # before what is logged, which tells with which values it was found
            runner.register_hook(moves, priority="NORMAL")
        runner.register_hook(scalars, priority="BELOW_NORMAL")
        runner.register_hook(Unlimited(), priority="NORMAL")
        runner.register_hook(System(tell, job.key, LOG_EVERY, job.iterations), priority="LOW")
        runner.register_hook(stops, priority="LOW")
        saving = Checkpoints(job, checkpoints, report, retention, uploads, asked_to_stop, attempt)
        runner.register_hook(saving, priority="VERY_LOW")
        together(uploads.request)
        with uploads:
            began = time.perf_counter()
            runner.train()
            if scalars.evaluated_at != job.iterations:
                runner.val()
            loop_seconds = time.perf_counter() - began
    except NoneLeft:
        together(lambda: store.drop_work(job.key))
        leave(job, at)
        return
    except Interrupted as stop:
        runner.logger.info("%s", stop)
        raise
    except Exception:
        runner.logger.exception("job %s stopped", job.key)
        raise
    if averages := averaging(runner):
        averages.swap(runner)
    model = bare_model(runner.model)
    together(lambda: retention.save_lasting(results / CHECKPOINTS))
    together(lambda: publish(stops.remaining, store, results, model, loop_seconds))
    leave(job, at)
