"""What is shown of unfinished jobs."""

import pytest
from rich.console import Console

from bacl_platform.store import status
from bacl_platform.store.names import JOB
from bacl_platform.train import worker
from bacl_platform.train.messages import Logged
from bacl_platform.train.publish import described


class Killed(Exception):
    """Stands for the death of the process."""


def test_interrupted_job_is_shown_with_its_checkpoint(planned, store, capsys):
    job = planned().jobs[0]

    def die(message):
        if isinstance(message, Logged) and message.rows and message.rows[-1]["step"] == 10:
            raise Killed

    with pytest.raises(Killed):
        worker.train(job, store, die, lambda _: None)
    (found,) = status.unfinished_jobs(store)
    assert (found.name, found.step, found.steps, found.checkpoint) == ("features", 10, 12, 5)
    assert not found.running and found.variants == 1 and found.workers == "1"
    with store.lock(job.key):
        assert status.unfinished_jobs(store)[0].running
    status.print_status(store, Console(width=160))
    assert "interrupted" in capsys.readouterr().out


def test_workers_of_a_range_are_shown_with_those_that_train(planned, store):
    ranged = ("stages.features.recipe.schedule.batch=4", "stages.features.resources.workers=[1, 2]")
    job = planned(*ranged).jobs[0]
    for facts, shown in (({}, "1-2"), ({"workers": 2}, "2 of 1-2")):
        path = store.work(job.key) / JOB
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(described(job, **facts), encoding="utf-8")
        (found,) = status.unfinished_jobs(store)
        assert found.workers == shown
