"""Drivers of a store, the processes that run experiments or sweeps: listed and stopped."""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from bacl.errors import RunError, UsageError
from bacl_platform.console import say
from bacl_platform.process import command_line, sigterm_as_interrupt
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Driver:
    """A process that runs an experiment or sweeps."""

    pid: int
    host: str
    command: str
    started: str
    note: str

    @property
    def here(self) -> bool:
        """Whether it is on this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool | None:
        """Whether it still runs; None where that cannot be known from here."""
        if not self.here:
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


@contextlib.contextmanager
def driving(store: Store) -> Iterator[None]:
    """Within, this process is listed as a driver of the store, and SIGTERM ends it as Ctrl-C
    does."""
    note = f".drivers/{socket.gethostname()}-{os.getpid()}.json"
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    facts = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
    facts["command"] = command_line()
    store.write_note(note, json.dumps(facts))
    try:
        with sigterm_as_interrupt():
            yield
    finally:
        store.drop_note(note)


def drivers(store: Store) -> list[Driver]:
    """Drivers of the store; the notes of those that were killed here are cleared away."""
    found = []
    for note in store.notes(".drivers"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            driver = Driver(**json.loads(store.note(note) or "{}"), note=note)
            if driver.alive is False:
                store.drop_note(note)
            else:
                found.append(driver)
    return found


def stop(store: Store, pid: int | None, patience: float, console: "Console") -> None:
    """Interrupt drivers of the store on this machine, one or all, and wait for their end.

    What they trained stays, and their commands go on from the newest checkpoints. Where nothing
    runs there is nothing to do. Raises UsageError where `pid` is none of them, RunError where they
    are on other machines or one does not end in `patience` seconds.
    """
    known = drivers(store)
    chosen = [driver for driver in known if driver.here and pid in (None, driver.pid)]
    if not chosen:
        here = ", ".join(str(driver.pid) for driver in known if driver.here)
        elsewhere = [f"{driver.pid} on {driver.host}" for driver in known if not driver.here]
        if elsewhere and not here:
            raise RunError(
                f"{store.url}: no run or sweep is on this machine; there are "
                f"{', '.join(elsewhere)}: run `bacl stop` there"
            )
        if pid is not None:
            raise UsageError(
                f"process {pid}: expected one that runs in {store.url}, as `bacl status` shows "
                f"them: {here or 'none'}"
            )
        say(console, f"nothing to stop: no run or sweep is in {store.url}")
        return
    for driver in chosen:
        os.kill(driver.pid, signal.SIGTERM)  # SIGINT is ignored in the background
    deadline = time.monotonic() + patience
    while any(driver.alive for driver in chosen):
        if time.monotonic() > deadline:
            left = ", ".join(str(driver.pid) for driver in chosen if driver.alive)
            raise RunError(
                f"process {left} has not ended after {patience:.0f} s: `kill -9 {left}` is safe, "
                "the same command goes on from the last checkpoints"
            )
        time.sleep(0.2)
    for driver in chosen:
        say(console, f"stopped {driver.pid}: {driver.command}")
