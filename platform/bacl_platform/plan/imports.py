"""What imported stages take of their checkpoints, found out before any job starts."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bacl.errors import RunError, UsageError

if TYPE_CHECKING:
    from bacl_platform.plan.job import Job


def check_imports(jobs: Iterable["Job"]) -> list[str]:
    """The account of each checkpoint that jobs take in, in sentences.

    Raises UsageError where one cannot be read, or does not fit the detector or the dataset.
    """
    lines, problems = [], []
    for job in {job.key: job for job in jobs if job.kind == "imported"}.values():
        from bacl.detector.imports.stage import account_of

        try:
            lines += [f"{job.stage}: {line}" for line in account_of(job.config).lines()]
        except RunError as error:
            problems.append(f"stages.{job.stage}.checkpoint: {error}")
    if problems:
        raise UsageError("\n".join(problems))
    return lines
