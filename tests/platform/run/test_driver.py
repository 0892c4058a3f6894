"""Whole runs on a local Ray, undisturbed and killed at the worst moments."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from bacl_platform.plan.job import Job
from bacl_platform.store.checkpoints import newest_step
from bacl_platform.store.store import Store
from bacl_platform.train import worker

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]

LONG = [
    "stages.features.recipe.schedule.iterations=150",
    "stages.features.recipe.checkpoint_every=10",
]


def listen_to_ctrl_c() -> None:
    """What a shell script starts in the background is made deaf to it, pytest perhaps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def bacl_run(tiny: Path, store: Store, *overrides: str) -> Iterator[subprocess.Popen]:
    """`bacl run` as a user starts it, killed at the end if it still runs."""
    chosen = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-c", "from bacl_platform.cli.main import main; main()"]
    process = subprocess.Popen(
        [*command, "run", str(tiny), "--store", str(store.root), *chosen],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=listen_to_ctrl_c,
        env={name: v for name, v in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
    )
    try:
        yield process
    finally:
        process.kill()  # the processes of a local Ray die with the driver that started them
        process.wait()


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_for_checkpoint(job: Job, store: Store, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while (newest_step(store.work(job.key) / "checkpoints") or 0) < step:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def training_process(job: Job, store: Store) -> int:
    holder = (store.root / ".work" / f"{job.key}.holder").read_text()
    return int(re.search(r"process (\d+)", holder)[1])


def weights(store: Store, job: Job) -> dict:
    path = store.entry(job.key) / "checkpoint.pth"
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.fixture
def job(tiny, planned) -> Job:
    """A job of 150 steps that is a plan of its own."""
    text = tiny.read_text()
    tiny.write_text(text[: text.index("  heads:")])
    return planned(*LONG).jobs[0]


def assert_as_undisturbed(job: Job, store: Store, tmp_path: Path) -> None:
    undisturbed = Store(tmp_path / "undisturbed")
    assert worker.train(job, undisturbed, lambda *_: None, lambda _: None) is None
    found, expected = weights(store, job), weights(undisturbed, job)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_run_finishes_the_plan_and_a_second_run_does_nothing(tiny, planned, store):
    with bacl_run(tiny, store) as process:
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "features: done" in output
    assert "heads: done" in output
    assert all(store.complete(job.key) for job in planned().jobs)
    with bacl_run(tiny, store) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "nothing to do: 2 of 2 jobs are in the store" in output


def test_killed_worker_is_replaced_and_the_weights_are_the_same(tiny, job, store, tmp_path):
    with bacl_run(tiny, store, *LONG) as process:
        wait_for_checkpoint(job, store, 20, process)
        os.kill(training_process(job, store), signal.SIGKILL)
        output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    assert "features: worker 0 stopped" in output
    assert re.search(r"features: goes on from step \d+0\n", output)
    assert_as_undisturbed(job, store, tmp_path)


def test_killed_driver_leaves_what_the_same_command_goes_on_from(tiny, job, store, tmp_path):
    with bacl_run(tiny, store, *LONG) as process:
        wait_for_checkpoint(job, store, 20, process)
        orphan = training_process(job, store)
        process.kill()
        process.wait()
    wait_until_gone(orphan)
    with bacl_run(tiny, store, *LONG) as process:
        output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    assert re.search(r"features: goes on from step \d+0\n", output)
    assert_as_undisturbed(job, store, tmp_path)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tiny, job, store):
    with bacl_run(tiny, store, *LONG) as process:
        wait_for_checkpoint(job, store, 10, process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    step = int(re.search(rf"job features \({job.key}\) was stopped at step (\d+)", output)[1])
    assert newest_step(store.work(job.key) / "checkpoints") == step
    assert "the same command goes on from the last checkpoints" in output
    assert "Traceback" not in output


def test_failed_job_stops_its_dependants_and_is_told_in_a_sentence(tiny, planned, store):
    job, _ = planned("stages.features.recipe.schedule.lr=1e30").jobs
    with bacl_run(tiny, store, "stages.features.recipe.schedule.lr=1e30") as process:
        output, _ = process.communicate(timeout=150)
    assert process.returncode == 1, output
    assert f"error: job features ({job.key}): " in output
    assert "is not finite at step 2" in output
    assert f"its last log lines: bacl logs {job.key} --store {store.root}" in output
    assert "error: job heads was not run: it starts from job features" in output
    assert "Traceback" not in output


def test_job_that_waits_for_room_says_for_what(tiny, planned, store):
    text = tiny.read_text(encoding="utf-8")
    tiny.write_text(text[: text.index("  heads:")], encoding="utf-8")
    cpus = os.cpu_count() or 1
    both = ["seeds=[0, 1]", f"stages.features.resources.cpus={cpus}"]
    with bacl_run(tiny, store, *both) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    ((waiting, what),) = re.findall(r"features seed (\d): waiting for (.*)", output)
    assert what == f"{cpus} CPU, 0 free"
    started = re.findall(r"features seed (\d): started", output)
    assert started[1] == waiting, output  # and not the one that had the room
