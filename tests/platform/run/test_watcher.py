"""Callbacks in Ray Train's processes, without those: SIGTERM, and machines that are reclaimed."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
import ray.train
from ray.train import PreemptionInfo
from ray.train.v2._internal.execution.controller.state import PreemptingState, RunningState

from bacl_platform.run.mailbox import Mailbox
from bacl_platform.run.watcher import Reclaimed, Terminated
from bacl_platform.train.messages import Gathered, Lost, Reached

REACHED = Reached(1, 1.0, 9.0)


class Remote:
    """A mailbox in this process, to which one callback speaks."""

    def __init__(self):
        self.box = Mailbox()

    @property
    def ask_to_move(self):
        return SimpleNamespace(remote=self.box.ask_to_move)

    @property
    def said(self):
        return self.box.asked_to_move("key", "attempt", REACHED)


@pytest.fixture
def on_sigterm():
    """What SIGTERM does in this process before and after a test; gives what it was called with."""
    before, called = signal.getsignal(signal.SIGTERM), []
    signal.signal(signal.SIGTERM, lambda number, _: called.append(number))
    yield called
    signal.signal(signal.SIGTERM, before)


def test_sigterm_asks_to_move_and_a_second_one_ends_as_before(monkeypatch, on_sigterm):
    context = SimpleNamespace(get_world_rank=lambda: 3)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    mailbox = Remote()
    Terminated(mailbox, "attempt").after_init_train_context()
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 10
    while mailbox.said is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert mailbox.said == "worker 3 was sent SIGTERM"
    assert on_sigterm == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert on_sigterm == [signal.SIGTERM]


def test_sigterm_that_ends_an_attempt_ends_its_worker(monkeypatch, on_sigterm):
    context = SimpleNamespace(get_world_rank=lambda: 0)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    mailbox = Remote()
    callback = Terminated(mailbox, "attempt")
    callback.after_init_train_context()
    callback.before_worker_shutdown()
    os.kill(os.getpid(), signal.SIGTERM)
    assert on_sigterm == [signal.SIGTERM] and mailbox.said is None


def test_machine_that_is_reclaimed_is_told_once_with_its_workers_and_the_time_left():
    mailbox = Remote()
    reclaimed = Reclaimed(mailbox, "attempt")
    reclaimed.after_controller_state_update(RunningState(), RunningState())
    assert mailbox.said is None
    soon = PreemptionInfo(int((time.time() + 30.4) * 1000), {"node": [1, 2]})
    states = [PreemptingState(info, 0.0) for info in (soon, PreemptionInfo(None, {"n": [0]}))]
    reclaimed.after_controller_state_update(RunningState(), states[0])
    assert mailbox.said == "the machine of worker 1, 2 is reclaimed in 30 s"
    reclaimed.after_controller_state_update(*states)
    assert mailbox.said == "the machine of worker 1, 2 is reclaimed in 30 s"


def test_what_was_asked_of_workers_is_not_asked_of_those_that_start_after_them():
    box = Mailbox()
    box.ask_to_move("attempt", "why")
    box.ask_to_move("attempt", "another reason")
    assert box.asked_to_move("key", "other", REACHED) is None
    assert box.asked_to_move("key", "attempt", REACHED) == "why"
    assert box.training_since("attempt") == pytest.approx(time.time(), abs=5)
    reached, ago = box.reached("key")
    assert reached == REACHED and 0 <= ago < 5
    box.start("attempt")
    assert box.training_since("attempt") is None and box.reached("key") is not None
    assert box.asked_to_move("key", "attempt", REACHED) is None


def test_time_without_training_is_counted_once(monkeypatch):
    box, clock = Mailbox(), iter([100.0, 130.0, 135.0])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    box.tell(Gathered("key", 0, 2))
    assert box.reached("key") is None
    box.asked_to_move("key", "attempt", Reached(9, 2.0, 80.0))
    box.tell(Gathered("key", 5, 2, Lost(4, 8.0, 30.0)))  # and dies before it is seen to train
    assert box.reached("key") == (Reached(5, 2.0, 80.0), 5.0)
