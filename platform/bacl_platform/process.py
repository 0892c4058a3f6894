"""This process: what it was started by, and how it ends."""

import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from bacl_platform.redaction import redacted


def command_line() -> str:
    """The command that this process is, without passwords; of a program other than `bacl`, which
    uses the Python API, its name alone."""
    program, *arguments = sys.argv or [""]
    if Path(program).stem in ("bacl", "__main__"):
        return redacted(shlex.join(["bacl", *arguments]))
    return Path(program).name


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Within, SIGTERM ends this process as Ctrl-C does, with all that it has started.

    Python lets the main thread alone say so: in another one signals stay as they are.
    """
    if not handles_signals():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def handles_signals() -> bool:
    """Whether this is the thread that may say what signals do."""
    return threading.current_thread() is threading.main_thread()
