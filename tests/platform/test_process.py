"""What this process is called, and how SIGTERM ends it."""

import os
import signal
import sys
import threading
import time

import pytest

from bacl_platform.process import command_line, sigterm_as_interrupt


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/env/bin/bacl", "run", "a b.yaml"], "bacl run 'a b.yaml'"),
        (["/src/bacl_platform/__main__.py", "status"], "bacl status"),
        (["bacl", "run", "--store", "s3://me:secret@host/x"], "bacl run --store s3://***@host/x"),
        (["/usr/lib/ipykernel_launcher.py", "-f", "kernel.json"], "ipykernel_launcher.py"),
        ([], ""),
    ],
)
def test_command_is_bacls_or_the_programs_name(words, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", words)
    assert command_line() == said


def test_sigterm_interrupts_within_and_is_as_before_after():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_leaves_signals_alone():
    before, entered = signal.getsignal(signal.SIGTERM), []

    def work():
        with sigterm_as_interrupt():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert entered == [before]
