"""Of jobs that run, those that wait for room, as Ray knows it."""

from types import SimpleNamespace

import pytest
import ray

from bacl_platform.run import driver
from bacl_platform.run.placement import groups_of
from bacl_platform.spec.experiment import Resources
from bacl_platform.train.messages import Gathered, Lost, Placed, Short, Troubled


class Told:
    """Progress that only remembers who waits."""

    def __init__(self):
        self.waits = []

    def wait(self, job, text):
        self.waits.append((job.name, text))

    def say(self, text):
        pass

    def gather(self, job, message):
        pass


@pytest.fixture
def jobs(planned, store, monkeypatch):
    """Two jobs that ask for the same and run, and whose groups Ray has `pending`."""
    both = [job for job in planned("seeds=[0, 1]").jobs if job.stage == "features"]
    remote = SimpleNamespace(remote=lambda *_: None)
    monkeypatch.setattr(driver, "beside_driver", dict)
    monkeypatch.setattr(ray, "remote", lambda _: SimpleNamespace(options=lambda **_: remote))
    made = driver.Jobs(store, [], Told(), mailbox=object())
    made._jobs = {job.key: job for job in both}
    made.running = dict.fromkeys(made._jobs)
    made.pending = []
    monkeypatch.setattr(driver, "pending_groups", lambda: list(made.pending))
    monkeypatch.setattr(ray, "available_resources", dict)
    return made


def look_twice(jobs):
    jobs.progress.waits = []
    for _ in range(2):
        jobs._look_who_waits()
    return jobs.progress.waits


def test_job_waits_whose_group_has_no_place(jobs):
    first, second = jobs._jobs.values()
    jobs.pending = [groups_of(second.resources)]
    assert look_twice(jobs) == []  # one of the two has its place and has not said so
    jobs._hear(first, Placed(first.key))
    assert look_twice(jobs) == [(second.name, "waiting for 1 CPU, 0 free")]
    jobs._hear(first, Troubled(first.key, "worker 0 stopped"))
    jobs.pending *= 2
    assert {name for name, _ in look_twice(jobs)} == {first.name, second.name}


def test_job_whose_parent_runs_waits_for_nothing_else(jobs):
    first, second = jobs._jobs.values()
    child = second.model_copy(update={"parent": first.key})
    jobs._jobs[second.key] = child
    jobs.pending = [groups_of(first.resources)]
    assert {name for name, _ in look_twice(jobs)} == {first.name}


def test_short_wait_is_not_told(jobs):
    jobs.pending = [groups_of(job.resources) for job in jobs._jobs.values()]
    jobs._look_who_waits()
    jobs.pending = []
    jobs._look_who_waits()
    assert jobs.progress.waits == []


def test_job_with_a_range_of_workers_waits_for_the_fewest(jobs):
    first, _ = jobs._jobs.values()
    ranged = first.model_copy(update={"resources": Resources(workers=(2, 8))})
    jobs._hear(ranged, Short(ranged.key))
    assert jobs.progress.waits == [(ranged.name, "waiting for 2 CPU, 0 free")]


def test_job_fits_with_its_fewest_workers_beside_the_most_of_those_that_run(jobs, monkeypatch):
    first, second = jobs._jobs.values()
    jobs.running = {first.key: None}
    jobs._jobs[first.key] = first.model_copy(update={"resources": Resources(workers=(1, 4))})
    ranged = second.model_copy(update={"resources": Resources(workers=(2, 8))})
    for cpus, room in ((5, False), (6, True)):
        monkeypatch.setattr(ray, "cluster_resources", lambda cpus=cpus: {"CPU": cpus})
        assert jobs.fits(ranged) == room


def test_jobs_are_submitted_after_their_parents_and_few_wait_for_room(jobs, monkeypatch):
    parents = list(jobs._jobs.values())
    jobs.running, jobs._jobs, submitted = {}, {}, []

    def submit(job):
        submitted.append(job.key)
        jobs.running[job.key], jobs._jobs[job.key] = None, job

    monkeypatch.setattr(jobs, "submit", submit)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2})
    children = [
        parents[0].model_copy(update={"key": f"child{number}", "parent": parents[0].key})
        for number in range(9)
    ]
    queued = [*parents, *children]
    jobs.submit_ready(queued)
    assert submitted == [parent.key for parent in parents]  # what room there is for
    del jobs.running[parents[0].key]
    jobs.submit_ready(queued)
    assert submitted[2:] == ["child0", "child1", "child2"]  # the other parent has no place yet
    jobs._hear(parents[1], Placed(parents[1].key))
    jobs.submit_ready(queued)
    assert len(jobs.running.keys() - jobs._placed) == driver.AHEAD
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 50})
    jobs.submit_ready(queued)
    assert submitted[2:] == [child.key for child in children]
    assert queued == []


def test_what_an_interruption_cost_is_logged_among_system_metrics(jobs):
    rows = []
    jobs.listeners = [SimpleNamespace(log=lambda job, found: rows.extend(found))]
    first, _ = jobs._jobs.values()
    jobs._hear(first, Gathered(first.key, 0, 2))
    jobs._hear(first, Gathered(first.key, 7, 1, Lost(3, 1.5, 20.0)))
    assert rows == [
        {
            "step": 7,
            "system/rank0/lost_steps": 3,
            "system/rank0/lost_seconds": 1.5,
            "system/rank0/lost_idle": 20.0,
        }
    ]
