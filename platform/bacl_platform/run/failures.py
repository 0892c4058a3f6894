"""What happens when a part of a job dies, and the message for it."""

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bacl.errors import unwrapped
from bacl_platform.plan.job import Job
from bacl_platform.run.placement import on_node
from bacl_platform.train.retries import failure, lasts

if TYPE_CHECKING:
    from ray import ObjectRef


def failure_of(job: Job, result: "ObjectRef") -> str | None:
    """Why a job ended without a result, in a sentence, from its task's result; None where it has
    one."""
    import ray

    try:
        return ray.get(result)
    except ray.exceptions.RayError as error:
        return f"job {job.name} ({job.key}) was lost by Ray: {first_line(error)}"


def kill_rank(mailbox: Any, key: str, rank: int) -> None:
    """Kill a rank that does not answer: Ray's own way waits most of a minute for its answer."""
    import ray

    placed = ray.get(mailbox.placed.remote(key, rank))
    if placed is not None:
        node, process = placed
        ray.remote(_kill_process).options(max_retries=0, **on_node(node)).remote(process)


def _kill_process(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def sentence_of(job: Job, error: Exception) -> str:
    """The error message of a job that Ray Train gave up."""
    causes = getattr(error, "worker_failures", {}).values()
    bare = [getattr(cause, "_base_exc", cause) for cause in causes]
    for cause in bare:
        if lasts(cause):
            return failure(job.name, job.key, cause)
    reason = first_line(bare[0] if bare else error)
    times = job.resources.retries + 1
    often = f" {times} times, the last time with" if times > 1 else ""
    return f"job {job.name} ({job.key}) failed{often}: {reason}"


def first_line(error: BaseException) -> str:
    """An error's kind and the first line of what it says, without what Ray put around it."""
    error = getattr(error, "_base_exc", error)
    lines = unwrapped(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
