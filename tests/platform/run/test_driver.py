"""Whole runs on a local Ray, undisturbed and killed at the worst moments."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from typer.testing import CliRunner

from bacl_platform.cli import main as cli
from bacl_platform.plan.job import Job
from bacl_platform.store.checkpoints import newest_step
from bacl_platform.store.store import Store
from bacl_platform.train import worker

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

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
    )
    try:
        yield process
    finally:
        process.kill()  # the processes of a local Ray die with the driver that started them
        process.wait()


def bacl_run_here(tiny: Path, store: Store, *overrides: str) -> tuple[int, str]:
    """Exit code and output of `bacl run` in this process, which has all modules already."""
    chosen = [part for override in overrides for part in ("--set", override)]
    words = ["run", str(tiny), "--store", str(store.root), *chosen]
    done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    return done.exit_code, done.output


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_for_checkpoint(job: Job, store: Store, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 400
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


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are tracked in the test's store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def job(tiny, planned) -> Job:
    """A job of 150 steps that is a plan of its own."""
    text = tiny.read_text()
    tiny.write_text(text[: text.index("  heads:")])
    return planned(*LONG).jobs[0]


def assert_as_undisturbed(job: Job, store: Store, undisturbed: Store) -> None:
    assert worker.train(job, undisturbed, lambda *_: None, lambda _: None) is None
    found, expected = weights(store, job), weights(undisturbed, job)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_run_finishes_the_plan_and_a_second_run_does_nothing(tiny, planned, store):
    with bacl_run(tiny, store) as process:
        output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert "features: done" in output
    assert "heads: done" in output
    assert all(store.complete(job.key) for job in planned().jobs)
    client = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    parent = next(run for run in runs if "bacl.plan" in run.data.tags)
    assert "| softmax |" in parent.data.tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id, "report")}
    assert "report/report.html" in files
    assert sum(len(run.outputs.model_outputs) for run in runs) == 3
    code, output = bacl_run_here(tiny, store)
    assert code == 0, output
    assert "nothing to do: 2 of 2 jobs are in the store" in output


def test_killed_worker_is_replaced_and_the_weights_are_the_same(tiny, job, store, undisturbed):
    with bacl_run(tiny, store, *LONG) as process:
        wait_for_checkpoint(job, store, 20, process)
        os.kill(training_process(job, store), signal.SIGKILL)
        output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert "features: worker 0 stopped" in output
    assert re.search(r"features: goes on from step \d+0\n", output)
    assert_as_undisturbed(job, store, undisturbed)


def test_killed_driver_leaves_what_the_same_command_goes_on_from(tiny, job, store, undisturbed):
    with bacl_run(tiny, store, *LONG) as process:
        wait_for_checkpoint(job, store, 20, process)
        orphan = training_process(job, store)
        process.kill()
        process.wait()
    wait_until_gone(orphan)
    with bacl_run(tiny, store, *LONG) as process:
        output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert re.search(r"features: goes on from step \d+0\n", output)
    assert_as_undisturbed(job, store, undisturbed)


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


def test_failed_job_stops_its_dependants_and_is_told_in_a_sentence(tiny, planned, store, capfd):
    job, _ = planned("stages.features.recipe.schedule.lr=1e30").jobs
    code, output = bacl_run_here(tiny, store, "stages.features.recipe.schedule.lr=1e30")
    assert code == 1, output
    assert f"error: job features ({job.key}): " in output
    assert "is not finite at step 2" in output
    assert f"its last log lines: bacl logs {job.key} --store {store.root}" in output
    assert "error: job heads was not run: it starts from job features" in output
    output += "".join(capfd.readouterr())  # what is written past Python, as Ray's core does
    assert "Traceback" not in output


def test_job_that_waits_for_room_says_for_what(tiny, planned, store):
    text = tiny.read_text(encoding="utf-8")
    tiny.write_text(text[: text.index("  heads:")], encoding="utf-8")
    cpus = os.cpu_count() or 1
    both = ["seeds=[0, 1]", f"stages.features.resources.cpus={cpus}"]
    code, output = bacl_run_here(tiny, store, *both)
    assert code == 0, output
    ((waiting, what),) = re.findall(r"features seed (\d): waiting for (.*)", output)
    assert what == f"{cpus} CPU, 0 free"
    started = re.findall(r"features seed (\d): started", output)
    assert started[1] == waiting, output  # and not the one that had the room


def test_two_drivers_of_an_experiment_make_one_result(tiny, planned, store):
    text = tiny.read_text()
    tiny.write_text(text[: text.index("  heads:")])
    (job,) = planned().jobs
    with ExitStack() as both:
        drivers = [both.enter_context(bacl_run(tiny, store)) for _ in range(2)]
        outputs = [driver.communicate(timeout=400)[0] for driver in drivers]
    for driver, output in zip(drivers, outputs):  # one waits for the other, or says who builds
        assert driver.returncode == 0 or "is being built by process" in output, output
    assert 0 in [driver.returncode for driver in drivers], outputs
    assert sum("features: started" in output for output in outputs) == 1, outputs
    assert store.complete(job.key)
    client = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    names = [run.info.run_name for run in runs]
    assert len(names) == len(set(names)), names
    for run in runs:
        for metric in run.data.metrics:
            steps = [one.step for one in client.get_metric_history(run.info.run_id, metric)]
            assert len(steps) == len(set(steps)), (run.info.run_name, metric, steps)


STORED = "stages.stored={kind: features, after: features, views: 4, resources: {workers: 2}}"
REPLAY = [STORED, "stages.heads.after=stored", "stages.heads.recipe.features=replay"]


@pytest.mark.slow
def test_killed_job_that_stores_features_goes_on_to_replays_as_undisturbed(
    tiny, planned, store, undisturbed
):
    features, stored, heads = planned(*REPLAY).jobs
    work = store.work(stored.key) / "entry" / "shards"
    with bacl_run(tiny, store, *REPLAY) as process:
        deadline = time.monotonic() + 400
        while not list(work.glob("*.json")):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        orphan = training_process(stored, store)
        process.kill()
        process.wait()
    wait_until_gone(orphan)
    assert store.complete(features.key) and not store.complete(stored.key)
    there = {path.name: path.stat().st_mtime_ns for path in work.glob("*.pt")}
    assert 0 < len(there) < stored.iterations
    with bacl_run(tiny, store, *REPLAY) as process:
        output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert "stored: done" in output and "heads: done" in output
    entry = store.entry(stored.key) / "shards"
    assert len(list(entry.glob("*.pt"))) == stored.iterations
    kept = [name for name, time in there.items() if (entry / name).stat().st_mtime_ns == time]
    assert kept
    for job in (features, stored.model_copy(update={"resources": features.resources})):
        assert worker.train(job, undisturbed, lambda *_: None, lambda _: None) is None
    assert_as_undisturbed(heads, store, undisturbed)
