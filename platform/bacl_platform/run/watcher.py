"""Callbacks of Ray Train's controller, which knows first of checkpoints and of workers that
stopped.

Imports Ray, which the rest of the room does where it runs.
"""

from typing import Any

from ray.train import UserCallback

from bacl_platform.run.failures import first_line, kill_rank
from bacl_platform.train.messages import CHECKPOINT, Checkpointed, Troubled


class Watcher(UserCallback):
    """Reports checkpoints and stopped workers to the driver, and has halted workers killed.

    mailbox: an actor, `bacl_platform.run.mailbox.Mailbox`. key: of the job.
    """

    def __init__(self, mailbox: Any, key: str) -> None:
        self.mailbox, self.key = mailbox, key

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        if CHECKPOINT in metrics[0]:
            self.mailbox.tell.remote(Checkpointed(self.key, metrics[0][CHECKPOINT]))

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Any]) -> None:
        ranks = ", ".join(str(rank) for rank in sorted(worker_exceptions))
        reason = first_line(next(iter(worker_exceptions.values())))
        for rank, error in worker_exceptions.items():
            if type(error).__name__ == "WorkerHealthCheckTimeoutError":  # internal to Ray
                kill_rank(self.mailbox, self.key, rank)
        self.mailbox.tell.remote(Troubled(self.key, f"worker {ranks} stopped: {reason}"))
