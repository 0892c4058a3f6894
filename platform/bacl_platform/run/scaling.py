"""With how many workers a job is started, and which deaths of workers count, in Ray Train's
controller.

Imports Ray, which the rest of the room does where it runs. Ray Train has no public hook for this:
its policies and `DataParallelTrainer._initialize_and_run_controller` are its own.
"""

import time
from typing import Any

import ray
from ray.train import TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.failure_handling import (
    DefaultFailurePolicy,
    FailureDecision,
)
from ray.train.v2._internal.execution.preemption import _get_draining_nodes
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)

from bacl_platform.plan.job import Job
from bacl_platform.run.placement import fitting, room_in
from bacl_platform.train.messages import Short

GAIN = 2.0
"""A job grows where that saves so many times the time that starting took."""


ASK_EVERY = 1.0
"""Seconds between looks for room, while there is none."""


class DividingPolicy(ElasticScalingPolicy):
    """Ray Train's elastic policy with numbers of workers that divide the job's batch.

    A job that runs is not resized, as Ray would do it, which costs what was trained since the last
    checkpoint: it is asked to write one and to end, and is started again by
    `bacl_platform.run.task`.

    mailbox: an actor, `bacl_platform.run.mailbox.Mailbox`. attempt: the name of the start.
    """

    def __init__(self, scaling_config: Any, job: Job, mailbox: Any, attempt: str) -> None:
        super().__init__(scaling_config)
        self.job, self.mailbox, self.attempt = job, mailbox, attempt
        self._decided = time.time()
        """When the last group of workers was begun."""

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, ResizeDecision):
            self._decided = time.time()
        else:
            self.mailbox.tell.remote(Short(self.job.key))
            time.sleep(ASK_EVERY)  # Ray's controller would ask without a pause
        return decision

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        decision = super().make_decision_for_running_worker_group(
            worker_group_state, worker_group_status
        )
        now = worker_group_state.num_workers
        if isinstance(decision, ResizeDecision) and decision.num_workers > now:
            self._consider(now, decision.num_workers)
        return NoopDecision()

    def _consider(self, now: int, then: int) -> None:
        """Ask for another start with more workers, unless that gains too little."""
        since = ray.get(self.mailbox.training_since.remote(self.attempt), timeout=30)
        found = ray.get(self.mailbox.reached.remote(self.job.key), timeout=30)
        if since is None or found is None:
            return
        reached, ago = found
        if gains(reached.left - ago, now, then, since - self._decided):
            why = f"room for {then} workers instead of {now}"
            self.mailbox.ask_to_move.remote(self.attempt, why)

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        placement = {"placement": self.scaling_config.placement_strategy}
        asked = self.job.resources.model_copy(update=placement)
        draining = _get_draining_nodes() or {}
        nodes = [
            {**node, "Resources": reserved_resources[node["NodeID"]]}
            for node in ray.nodes()
            if node["Alive"]
            and node["NodeID"] in reserved_resources
            and node["NodeID"] not in draining
        ]
        room = room_in(asked, [fitting(asked, node) for node in nodes])
        return max((n for n in self.job.worker_counts if n <= room), default=0)


def gains(left: float, now: int, then: int, starting: float) -> bool:
    """Whether more workers save much more time than starting them costs.

    left: seconds that a job will train yet with the workers it has. starting: seconds that starting
    those took.
    """
    return left * (1 - now / then) > GAIN * starting


class SparingPolicy(DefaultFailurePolicy):
    """Ray Train's policy, by which the end of a machine that was announced is no failure; so is
    none that was not announced, but in which the machine's Ray was ended in order, by SIGTERM."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if isinstance(training_failed_error, WorkerGroupError):
            errors = training_failed_error.worker_failures.values()
            if any("node was terminated expectedly" in str(error) for error in errors):
                return FailureDecision.RETRY
        return super().make_decision(training_failed_error)


class PolicyTrainer(TorchTrainer):
    """Ray Train's trainer with policies of ours; scaling is None for a fixed number of workers."""

    scaling: DividingPolicy | None = None

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        options["failure_policy"] = SparingPolicy(self.run_config.failure_config)
        if self.scaling is not None:
            options["scaling_policy"] = self.scaling
        return super()._initialize_and_run_controller(**options)
