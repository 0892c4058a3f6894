"""Makes the entry of a job of kind `imported`: a trained detector, taken in and evaluated once."""

from bacl.detector.imports.fitting import Account
from bacl.detector.imports.stage import begin
from bacl_platform.plan.job import Job
from bacl_platform.store.store import Store
from bacl_platform.train.evaluating import evaluate
from bacl_platform.train.messages import Report, Tell
from bacl_platform.train.model import bare_model
from bacl_platform.train.ranks import Machines
from bacl_platform.train.runner import JobRunner


def take_in(job: Job, store: Store, tell: Tell, report: Report) -> None:
    """Take in the checkpoint, evaluate it over all ranks, and publish the entry."""

    def load(runner: JobRunner, at: Machines) -> None:
        accounts: list[Account] = []
        at.every(lambda: accounts.append(begin(bare_model(runner.model), job.config)))
        for line in accounts[0].lines():
            runner.logger.info("%s", line)

    evaluate(job, store, tell, report, load)
