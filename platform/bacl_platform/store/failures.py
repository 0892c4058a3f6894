"""Where to look when a job went wrong: how it failed, and the last lines of its log."""

import shlex
from typing import TYPE_CHECKING

from bacl.errors import UsageError
from bacl_platform.console import say
from bacl_platform.redaction import redacted
from bacl_platform.store import unfinished
from bacl_platform.store.names import JOB, LOG, failure_note
from bacl_platform.store.status import Unfinished, unfinished_jobs
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console


def logs_command(store: Store, key: str) -> str:
    """What shows the last log lines of a job."""
    return shlex.join(["bacl", "logs", key, "--store", store.url])


def note_failure(store: Store, key: str, sentence: str) -> None:
    """Remember how a job that began failed, until it is started again."""
    if unfinished.read(store, key, JOB) is not None:
        store.write_note(failure_note(key), redacted(sentence))


def clear_failure(store: Store, key: str) -> None:
    """Forget how a job failed, because it is started again."""
    store.drop_note(failure_note(key))


def print_logs(store: Store, which: str | None, lines: int, console: "Console") -> None:
    """Show the last lines of a job's log, and how it failed if it did.

    which: key or name of a running, interrupted or failed job, of those with a name the newest;
    without one, the one that logged last of those that failed or, if none has, of all. Raises
    UsageError where there is no such job or log.
    """
    job = _chosen(store, which)
    if job is None:
        say(console, f"no unfinished jobs in {store.url}")
        return
    place = f"{store.url}/.work/{job.key}/{LOG}"
    log = unfinished.read(store, job.key, LOG)
    if log is None:
        raise UsageError(f"job {job.name} ({job.key}): expected a log at {place}, found none yet")
    for line in [f"job {job.name} ({job.key}), {place}:", *log.splitlines()[-lines:]]:
        say(console, redacted(line))
    if job.failure is not None:
        say(console, f"failed: {job.failure}")


def _chosen(store: Store, which: str | None) -> Unfinished | None:
    """The job to show; None where none was named and there is none."""
    known = sorted(unfinished_jobs(store), key=lambda job: job.quiet)
    if which is None:
        failed = [job for job in known if job.failure is not None and not job.running]
        return next(iter([*failed, *known]), None)
    found = [job for job in known if which in (job.key, job.name)]
    if not found:
        names = ", ".join(f"{job.name} ({job.key})" for job in known) or "none"
        raise UsageError(
            f"{store.root}: expected an unfinished job with key or name {which!r}; its unfinished "
            f"jobs: {names}"
        )
    return found[0]
