"""Drivers of a store: known while they run, stopped from elsewhere."""

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
from bacl_platform.store import drivers
from bacl_platform.store.disk import write_text


def test_driver_is_known_while_it_runs_and_ends_on_sigterm_as_on_interrupt(store):
    with pytest.raises(KeyboardInterrupt), drivers.driving(store):
        (driver,) = drivers.drivers(store)
        assert driver.pid == os.getpid() and driver.here and driver.alive
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert drivers.drivers(store) == []


def note(store, pid, host):
    path = store.root / ".drivers" / f"{host}-{pid}.json"
    path.parent.mkdir(exist_ok=True)
    facts = {"pid": pid, "host": host, "command": "bacl run x.yaml", "started": "today"}
    write_text(path, json.dumps(facts))


def test_stop_ends_a_driver_and_says_which(store, capsys):
    code = (
        "import signal, sys, time\n"
        "from bacl_platform.store.drivers import driving\n"
        "from bacl_platform.store.store import Store\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script\n"
        "try:\n"
        "    with driving(Store(sys.argv[1])): time.sleep(60)\n"
        "except KeyboardInterrupt: pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(store.root)]) as process:
        deadline = time.monotonic() + 30
        while not drivers.drivers(store) and time.monotonic() < deadline:
            time.sleep(0.05)
        threading.Thread(target=process.wait, daemon=True).start()  # or it stays, as a zombie
        drivers.stop(store, None, 30, Console(width=160))
    assert f"stopped {process.pid}: -c" in capsys.readouterr().out
    assert drivers.drivers(store) == []


def test_driver_on_another_machine_cannot_be_stopped_from_here(store):
    note(store, 1, "elsewhere")
    with pytest.raises(RunError, match="there are 1 on elsewhere: run `bacl stop` there"):
        drivers.stop(store, None, 1, Console())


def test_stop_has_nothing_to_do_where_nothing_runs(store, capsys):
    drivers.stop(store, None, 1, Console(width=200))
    assert capsys.readouterr().out == f"nothing to stop: no run or sweep is in {store.url}\n"
    note(store, os.getpid(), socket.gethostname())
    with pytest.raises(UsageError, match=rf"process 1: expected one .*: {os.getpid()}$"):
        drivers.stop(store, 1, 1, Console())
