"""Faults that no run's own processes cause; `make soak` has more of them, at random moments."""

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import pytest
from mlflow import MlflowClient

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]


@contextmanager
def bacl_run(tiny, store):
    """`bacl run` as a user starts it, killed at the end if it still runs."""
    command = [sys.executable, "-c", "from bacl_platform.cli.main import main; main()"]
    process = subprocess.Popen(
        [*command, "run", str(tiny), "--store", str(store.root)],
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


def test_two_drivers_of_an_experiment_make_one_result(tiny, planned, store):
    text = tiny.read_text()
    tiny.write_text(text[: text.index("  heads:")])
    (job,) = planned().jobs
    with ExitStack() as both:
        drivers = [both.enter_context(bacl_run(tiny, store)) for _ in range(2)]
        outputs = [driver.communicate(timeout=200)[0] for driver in drivers]
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
