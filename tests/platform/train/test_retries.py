"""What is worth another try, and that nothing else gets one."""

from types import SimpleNamespace

import pytest
import ray
import ray.train
import torch
from torch.utils.data import DataLoader, Dataset

from bacl.datasets.loading import ImageError
from bacl.errors import RunError, UsageError
from bacl_platform.run import task
from bacl_platform.run.mailbox import Mailbox
from bacl_platform.train import worker
from bacl_platform.train.ranks import Agreed
from bacl_platform.train.retries import failure, lasts


@pytest.mark.parametrize(
    "error",
    [UsageError("x"), ImageError("x"), Agreed("x"), KeyError("x"), FileNotFoundError("x")],
)
def test_what_the_user_has_to_mend_lasts(error):
    assert lasts(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Connection closed by peer"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        ConnectionResetError(),
        TimeoutError(),
        OSError(5, "Input/output error"),
    ],
)
def test_what_machines_do_may_pass(error):
    assert not lasts(error)


class Wrong(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, place):
        raise self.error


@pytest.mark.slow
@pytest.mark.parametrize(
    "error, told",
    [
        (RunError("a.png: expected an image\nb.png: too"), "a.png: expected an image\nb.png: too"),
        (ImageError("a.png: expected an image"), "a.png: expected an image"),
        (ValueError("of 3"), "job heads (12ab) failed, and would fail again: ValueError: of 3"),
    ],
)
def test_sentence_is_bare_where_a_loaders_process_raised_it(error, told):
    loader = DataLoader(Wrong(error), num_workers=1)
    with pytest.raises(type(error)) as raised:
        next(iter(loader))
    assert failure("heads", "12ab", raised.value) == told


class Call:
    """A remote method of an actor, called at once."""

    def __init__(self, method):
        self.remote = method


class Rank:
    """What a rank of a job is given by Ray, with a mailbox in this process."""

    def __init__(self, job, monkeypatch, error):
        self.mailbox, self.trained = Mailbox(), 0
        methods = ("tell", "asked_to_stop", "place", "start", "reached", "give_up", "given_up")
        mailbox = SimpleNamespace(**{name: Call(getattr(self.mailbox, name)) for name in methods})
        self.config = {
            "job": job,
            "store": None,
            "mailbox": mailbox,
            "board": None,
            "attempt": "one",
        }
        context = SimpleNamespace(get_world_rank=lambda: 0, get_node_id=lambda: "here")
        monkeypatch.setattr(ray, "get", lambda value, timeout=None: value)
        monkeypatch.setattr(ray.train, "get_context", lambda: context)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)

        def train(*_):
            self.trained += 1
            raise error

        monkeypatch.setattr(worker, "train", train)

    def start(self, attempt="one"):
        return task.train_rank({**self.config, "attempt": attempt})


@pytest.mark.slow
def test_ranks_are_not_started_again_after_what_lasts(planned, monkeypatch):
    rank = Rank(planned().jobs[0], monkeypatch, ImageError("a.png: expected an image"))
    with pytest.raises(ImageError):
        rank.start()
    assert rank.start() == "a.png: expected an image"
    assert rank.trained == 1
    with pytest.raises(
        ImageError
    ):  # of the same command once more, for the user may have mended it
        rank.start("another")
    assert rank.trained == 2


@pytest.mark.slow
def test_ranks_are_started_again_after_what_may_pass(planned, monkeypatch):
    rank = Rank(planned().jobs[0], monkeypatch, RuntimeError("Connection closed by peer"))
    for _ in range(2):
        with pytest.raises(RuntimeError):
            rank.start()
    assert rank.trained == 2
