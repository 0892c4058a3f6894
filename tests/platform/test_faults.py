"""Faults from outside a run's own processes; `make soak` has more of them, at random moments."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from cluster import Cluster
from mlflow import MlflowClient

from bacl_platform import worker
from bacl_platform.plan import Job
from bacl_platform.store import Store, newest_step

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

LONG = [
    "stages.features.recipe.schedule.iterations=100",
    "stages.features.recipe.checkpoint_every=10",
]


@contextmanager
def bacl_run(tiny: Path, store: Store, *options: str) -> Iterator[subprocess.Popen]:
    """`bacl run` as a user starts it, killed at the end if it still runs."""
    chosen = [part for override in LONG for part in ("--set", override)]
    command = [sys.executable, "-c", "from bacl_platform.cli import main; main()"]
    process = subprocess.Popen(
        [*command, "run", str(tiny), "--store", str(store.root), *chosen, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: v for name, v in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def job(tiny, planned) -> Job:
    """A job of 100 steps that is a plan of its own."""
    text = tiny.read_text()
    tiny.write_text(text[: text.index("  heads:")])
    return planned(*LONG).jobs[0]


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch) -> Iterator[Cluster]:
    """A head and two nodes, whose workers import what this process does."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    cluster = Cluster(tmp_path_factory.mktemp("ray"))
    yield cluster
    cluster.stop()


def assert_as_undisturbed(job: Job, store: Store, tmp_path: Path) -> None:
    undisturbed = Store(tmp_path / "undisturbed")
    assert worker.train(job, undisturbed, lambda *_: None, lambda _: None) is None
    found, expected = (
        torch.load(s.entry(job.key) / "checkpoint.pth", weights_only=True)["state_dict"]
        for s in (store, undisturbed)
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


def test_lost_node_is_replaced_by_another_and_the_weights_are_the_same(
    tiny, job, store, cluster, tmp_path
):
    with bacl_run(tiny, store, "--address", cluster.address) as process:
        deadline = time.monotonic() + 120
        while (newest_step(store.work(job.key) / "checkpoints") or 0) < 20:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        holder = (store.root / ".work" / f"{job.key}.holder").read_text()
        cluster.kill_node_of(int(re.search(r"process (\d+)", holder)[1]))
        output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    assert re.search(r"features: goes on from step \d+0\n", output)
    assert_as_undisturbed(job, store, tmp_path)


def test_two_drivers_of_an_experiment_make_one_result(tiny, job, store):
    with ExitStack() as both:
        drivers = [both.enter_context(bacl_run(tiny, store)) for _ in range(2)]
        outputs = [driver.communicate(timeout=200)[0] for driver in drivers]
    # the second waits for the first, or says who builds
    assert 0 in [driver.returncode for driver in drivers], outputs
    for driver, output in zip(drivers, outputs):
        assert driver.returncode == 0 or "is being built by process" in output, output
    assert sum("features: started" in output for output in outputs) == 1, outputs
    assert store.complete(job.key)
    client = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    names = [run.info.run_name for run in runs]
    assert len(names) == len(set(names)), names
    (trained,) = [run for run in runs if run.info.run_name == "job features seed 0"]
    steps = [one.step for one in client.get_metric_history(trained.info.run_id, "loss")]
    assert steps == list(range(10, 101, 10))
