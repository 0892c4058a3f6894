"""Seeing and stopping what runs elsewhere."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from bacl.errors import RunError, UsageError
from bacl_platform.store import status
from bacl_platform.store.store import write_text
from bacl_platform.train import worker


class Killed(Exception):
    """Stands for the death of the process."""


def test_interrupted_job_is_shown_with_its_checkpoint(planned, store, capsys):
    job = planned().jobs[0]

    def die(kind, key, content):
        if kind == "scalars" and content and content[-1]["step"] == 10:
            raise Killed

    with pytest.raises(Killed):
        worker.train(job, store, die, lambda _: None)
    (found,) = status.unfinished(store)
    assert (found.name, found.step, found.steps, found.checkpoint) == ("features", 10, 12, 5)
    assert not found.running and found.variants == 1
    with store.lock(job.key):
        assert status.unfinished(store)[0].running
    status.print_status(store, Console(width=160))
    assert "interrupted" in capsys.readouterr().out


def test_driver_is_known_while_it_runs_and_ends_on_sigterm_as_on_interrupt(store):
    with pytest.raises(KeyboardInterrupt), status.driving(store):
        (driver,) = status.drivers(store)
        assert driver.pid == os.getpid() and driver.here and driver.alive
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert status.drivers(store) == []


def note(store, pid, host):
    path = store.root / ".drivers" / f"{host}-{pid}.json"
    path.parent.mkdir(exist_ok=True)
    facts = {"pid": pid, "host": host, "command": "bacl run x.yaml", "started": "today"}
    write_text(path, json.dumps(facts))


def test_stop_ends_a_driver_and_says_which(store, capsys):
    code = (
        "import signal, sys, time\n"
        "from bacl_platform.store.status import driving\n"
        "from bacl_platform.store.store import Store\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script\n"
        "try:\n"
        "    with driving(Store(sys.argv[1])): time.sleep(60)\n"
        "except KeyboardInterrupt: pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(store.root)]) as process:
        deadline = time.monotonic() + 30
        while not status.drivers(store) and time.monotonic() < deadline:
            time.sleep(0.05)
        threading.Thread(target=process.wait, daemon=True).start()  # or it stays, as a zombie
        status.stop(store, None, 30, Console(width=160))
    assert f"stopped {process.pid}: bacl" in capsys.readouterr().out
    assert status.drivers(store) == []


def test_driver_on_another_machine_cannot_be_stopped_from_here(store):
    note(store, 1, "elsewhere")
    with pytest.raises(RunError, match="there are 1 on elsewhere: run `bacl stop` there"):
        status.stop(store, None, 1, Console())


def test_stop_has_nothing_to_do_where_nothing_runs(store, capsys):
    status.stop(store, None, 1, Console(width=200))
    assert capsys.readouterr().out == f"nothing to stop: no run or sweep is in {store.url}\n"
    note(store, os.getpid(), socket.gethostname())
    with pytest.raises(UsageError, match=rf"process 1: expected one .*: {os.getpid()}$"):
        status.stop(store, 1, 1, Console())
