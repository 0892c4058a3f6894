"""Where to look when a job went wrong."""

import json
import os

import pytest
from rich.console import Console

from bacl.errors import UsageError
from bacl_platform.store import failures, status
from bacl_platform.store.names import JOB, SCALARS


@pytest.fixture
def begun(store, planned):
    """Makes what a job of ten lines and two logged rows leaves."""

    def made(number=0, row=None):
        job = planned().jobs[number]
        work = store.work(job.key)
        work.mkdir(parents=True)
        content = job.model_dump(mode="json", exclude={"config"})
        (work / JOB).write_text(json.dumps({**content, "iterations": job.iterations}))
        row = row or {"step": 10, "loss": 1.0, "time": 0.5}
        (work / SCALARS).write_text(json.dumps(row) + "\n")
        lines = [f"{job.name} line {line} http://me:sesame@host" for line in range(10)]
        (work / "train.log").write_text("\n".join(lines) + "\n")
        return job

    return made


def shown(store, capsys, which=None, lines=2):
    failures.print_logs(store, which, lines, Console(width=300))
    return capsys.readouterr().out


def test_newest_failed_job_is_shown_without_a_name(begun, store, capsys):
    first, second = begun(0), begun(1)
    failures.note_failure(store, second.key, "loss is not finite")
    failures.note_failure(store, first.key, "it broke before that")
    os.utime(store.work(first.key) / SCALARS, (1, 1))
    lines = shown(store, capsys).splitlines()
    assert lines[0].startswith(f"job heads ({second.key}), {store.work(second.key)}")
    assert lines[1:] == [
        "heads line 8 http://***@host",
        "heads line 9 http://***@host",
        "failed: loss is not finite",
    ]


@pytest.mark.parametrize("by", ["name", "key"])
def test_any_unfinished_job_is_found_by_name_and_key(begun, store, capsys, by):
    job = begun()
    assert "features line 9" in shown(store, capsys, getattr(job, by))


def test_unknown_job_is_told_with_those_there_are(begun, store, capsys):
    job = begun()
    with pytest.raises(UsageError, match=rf"name 'nope'; its .* features \({job.key}\)"):
        shown(store, capsys, "nope")


def test_interrupted_job_is_shown_without_a_name_where_none_has_failed(begun, store, capsys):
    assert shown(store, capsys) == f"no unfinished jobs in {store.url}\n"
    first, second = begun(0), begun(1)
    os.utime(store.work(first.key) / SCALARS, (1, 1))
    assert shown(store, capsys).startswith(f"job heads ({second.key})")
    failures.note_failure(store, first.key, "it broke")
    assert shown(store, capsys).startswith(f"job features ({first.key})")


def test_job_that_is_started_again_has_not_failed(begun, store):
    job = begun()
    failures.note_failure(store, job.key, "it broke")
    assert status.unfinished_jobs(store)[0].failure == "it broke"
    failures.clear_failure(store, job.key)
    assert status.unfinished_jobs(store)[0].failure is None


def test_status_has_throughput_and_time_left_of_what_runs(begun, store, capsys):
    job = begun()
    (found,) = status.unfinished_jobs(store)
    assert found.images_per_second == 4.0  # batches of two in half a second
    assert found.seconds_left == 1.0
    with store.lock(job.key):
        status.print_status(store, Console(width=200))
    out = capsys.readouterr().out
    assert "images/s" in out and "│ 4" in out and "1 s" in out
    failures.note_failure(store, job.key, "it broke")
    status.print_status(store, Console(width=200))
    assert "failed: bacl logs" in capsys.readouterr().out
