"""Callbacks of Ray Train, whose controller knows first of checkpoints, of workers that stopped and
of machines that are reclaimed.

Imports Ray, which the rest of the room does where it runs.
"""

import signal
import threading
import time
from typing import Any

import ray.train
from ray.train import UserCallback
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerCallback
from ray.train.v2._internal.execution.controller.state import PreemptingState

from bacl_platform.process import handles_signals
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


class Reclaimed(ControllerCallback):
    """Asks an attempt to end at a checkpoint where a node of its workers is reclaimed.

    Ray is told of that by who reclaims it: by the cloud's autoscaler or by `ray drain-node`.
    """

    def __init__(self, mailbox: Any, attempt: str) -> None:
        self.mailbox, self.attempt = mailbox, attempt

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        if isinstance(previous_state, PreemptingState):
            return
        if isinstance(current_state, PreemptingState):
            info = current_state.preemption_info
            self.mailbox.ask_to_move.remote(self.attempt, _reclaimed(info))


def _reclaimed(info: Any) -> str:
    """What Ray Train says of nodes that are reclaimed, in words."""
    ranks = ", ".join(str(rank) for rank in info.preempted_ranks)
    when = ""
    if info.deadline_ms is not None:
        when = f" in {max(info.deadline_ms / 1000 - time.time(), 0):.0f} s"
    return f"the machine of worker {ranks} is reclaimed{when}"


class Terminated(WorkerCallback):
    """Has SIGTERM ask an attempt to end at a checkpoint instead of ending one of its workers.

    A second one ends the worker, as does the one that Ray sends at the attempt's end.
    """

    def __init__(self, mailbox: Any, attempt: str) -> None:
        self.mailbox, self.attempt = mailbox, attempt
        self._before: Any = None

    def after_init_train_context(self) -> None:
        if not handles_signals():
            return
        told, rank = threading.Event(), ray.train.get_context().get_world_rank()
        self._before = signal.getsignal(signal.SIGTERM)

        def handle(*_: object) -> None:
            self.before_worker_shutdown()
            told.set()

        def tell() -> None:  # a handler may interrupt Ray where it cannot be called
            told.wait()
            self.mailbox.ask_to_move.remote(self.attempt, f"worker {rank} was sent SIGTERM")

        threading.Thread(target=tell, name="sigterm", daemon=True).start()
        signal.signal(signal.SIGTERM, handle)

    def before_worker_shutdown(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
