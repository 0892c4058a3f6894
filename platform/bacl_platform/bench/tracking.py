"""Eight jobs that log 100 metrics a second in all to an MLflow server, beside the same untracked.

The stand-in for training is a loop of matrix products in the very process that tracks: it shares
the interpreter with the tracker, which the training of real jobs does not.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bacl.errors import RunError
from bacl_platform.bench.measure import Row, Setting

if TYPE_CHECKING:
    from bacl_platform.plan import Plan
    from bacl_platform.store import Store
    from bacl_platform.tracking import Tracking

JOBS = 8
METRICS = 4
"""In a row of a job."""
RATE = 100
"""Metrics a second, of all jobs."""
SECONDS = 5.0
"""About what a round takes."""

EXPERIMENT = """
name: bench
dataset: {format: embedded, size: small}
detector: {backbone: tiny}
stages:
  representation:
    kind: representation
    recipe: {schedule: {iterations: 20, warmup: 10}, scales: [[128, 128]], test_scale: [128, 128]}
"""


def tracking(setting: Setting) -> list[Row]:
    """Median time of a round with tracking and without.

    Raises:
        RunError: the server has not got every metric of every round, once.
    """
    from bacl_platform.tracking import Tracking

    with tempfile.TemporaryDirectory(prefix="bacl-bench-") as folder, _server(Path(folder)):
        plan, store = _planned(Path(folder))
        work = _Work()
        on, off = [], []
        with Tracking.of_plan(plan, store) as tracker:
            for job in plan.jobs:
                tracker.start(job)
            work.run(plan, None)
            for _ in range(setting.repeat or 5):
                off.append(work.run(plan, None))
                on.append(work.run(plan, tracker))
        _check(plan, store, work.logged)
    rounds = len(on)
    return [
        Row(
            "tracking",
            f"{rounds} rounds, {work.logged * METRICS * JOBS} metrics of {JOBS} jobs",
            1000 * statistics.median(on),
            "without tracking",
            1000 * statistics.median(off),
            1.02,
        )
    ]


class _Work:
    """Rounds of equal steps, after each of which one job logs a row."""

    def __init__(self) -> None:
        import torch

        self.matrix = torch.rand(256, 256)
        self.products = 1
        self.logged = 0
        """Rows that each job has logged."""
        pause = METRICS / RATE
        began = time.perf_counter()
        while time.perf_counter() - began < 1:  # until the clock of the processor is up
            self._step()
        began = time.perf_counter()
        for _ in range(100):
            self._step()
        self.products = max(1, int(pause / (time.perf_counter() - began) * 100))

    def run(self, plan: "Plan", tracker: "Tracking | None") -> float:
        """Seconds of a round."""
        rows = int(SECONDS * RATE / METRICS / JOBS)
        began = time.perf_counter()
        for row in range(rows):
            for job in plan.jobs:
                self._step()
                values = {f"loss_{number}": float(row) for number in range(METRICS)}
                if tracker is not None:
                    tracker.log(job, [{"step": self.logged + row, **values}])
        if tracker is not None:
            self.logged += rows
        return time.perf_counter() - began

    def _step(self) -> None:
        for _ in range(self.products):
            self.matrix @ self.matrix


def _planned(folder: Path) -> tuple["Plan", "Store"]:
    from bacl.datasets.annotations import prepare
    from bacl_platform.experiment import load
    from bacl_platform.plan import make_plan
    from bacl_platform.store import Store

    path, store = folder / "bench.yaml", Store(folder / "store")
    path.write_text(EXPERIMENT)
    experiment = load(path, [f"seeds={list(range(JOBS))}"])
    return make_plan(experiment, prepare(experiment.dataset, store.datasets), store), store


def _check(plan: "Plan", store: "Store", rows: int) -> None:
    from mlflow import MlflowClient

    from bacl_platform.tracking import tracking_uri

    client = MlflowClient(tracking_uri(store))
    experiment = client.get_experiment_by_name(plan.experiment.name)
    runs = {
        run.data.tags["bacl.key"]: run.info.run_id
        for run in client.search_runs([experiment.experiment_id])
        if "bacl.key" in run.data.tags and "bacl.variant" not in run.data.tags
    }
    for job in plan.jobs:
        for number in range(METRICS):
            history = client.get_metric_history(runs[job.key], f"loss_{number}")
            steps = sorted(metric.step for metric in history)
            if steps != list(range(rows)):
                raise RunError(
                    f"bench tracking: expected steps 0 to {rows - 1} of loss_{number} of job "
                    f"{job.name}, each once; the server has {len(steps)}"
                )


@contextmanager
def _server(folder: Path) -> Iterator[None]:
    """Within, MLFLOW_TRACKING_URI is that of an MLflow server of the bench's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    known = os.environ.get("MLFLOW_TRACKING_URI")
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--artifacts-destination", str(folder)]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, *where, "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(server, port, folder / "server.log")
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if known is not None:
            os.environ["MLFLOW_TRACKING_URI"] = known
        server.terminate()
        server.wait()


def _wait(server: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RunError(f"bench tracking: expected an MLflow server at port {port}: {log.read_text()}")
