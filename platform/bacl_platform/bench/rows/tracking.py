"""Eight jobs that log 100 metrics a second in all to an MLflow server, beside the same untracked.

The stand-in for training is a loop of matrix products in a process of its own, as a Ray Train
worker is; the driver, which tracks, and the server run beside it.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bacl.errors import RunError
from bacl_platform.bench.measure import Row, Setting
from bacl_platform.bench.servers import free_port, serving

if TYPE_CHECKING:
    from bacl_platform.plan.job import Plan
    from bacl_platform.store.store import Store
    from bacl_platform.tracking.tracking import Tracking

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


def measure(setting: Setting) -> list[Row]:
    """Median time of a round with tracking and without.

    Raises:
        RunError: the server has not got every metric of every round, once.
    """
    from bacl_platform.tracking.tracking import Tracking

    with tempfile.TemporaryDirectory(prefix="bacl-bench-") as folder, _server(Path(folder)):
        plan, store = _planned(Path(folder))
        on, off = [], []
        with Tracking.of_plan(plan, store) as tracker, _Training() as training:
            for job in plan.jobs:
                tracker.start(job)
            logger = _Logger(plan, tracker)
            training.round(lambda: None)
            for _ in range(setting.repeat or 5):
                off.append(training.round(lambda: None))
                on.append(training.round(logger.log))
            logger.complete()
        _check(plan, store, logger.rows)
    rounds = len(on)
    return [
        Row(
            "tracking",
            f"{rounds} rounds, {logger.rows * METRICS * JOBS} metrics of {JOBS} jobs",
            1000 * statistics.median(on),
            "without tracking",
            1000 * statistics.median(off),
            1.02,
        )
    ]


class _Training:
    """Rounds of equal steps in another process."""

    def __enter__(self) -> "_Training":
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._products = 1000
        taken = self.round(lambda: None)
        taken = min(taken, self.round(lambda: None))  # the first one imports torch
        self._products = max(1, int(self._products * SECONDS / taken))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def round(self, meanwhile: Callable[[], None]) -> float:
        """Seconds of a round, in which something is done as often as rows are to be logged."""
        done = self._pool.submit(_train, self._products)
        while not done.done():
            meanwhile()
            time.sleep(METRICS / RATE)
        return done.result()


def _train(products: int) -> float:
    import torch

    torch.set_num_threads(1)
    matrix = torch.rand(256, 256)
    began = time.perf_counter()
    for _ in range(products):
        matrix @ matrix
    return time.perf_counter() - began


class _Logger:
    """Rows of one job after the other."""

    def __init__(self, plan: "Plan", tracker: "Tracking") -> None:
        self._jobs, self._tracker, self._count = plan.jobs, tracker, 0

    @property
    def rows(self) -> int:
        """Rows of each job, once all have as many."""
        return self._count // JOBS

    def log(self) -> None:
        """One row."""
        values = {f"loss_{number}": float(self.rows) for number in range(METRICS)}
        self._tracker.log(self._jobs[self._count % JOBS], [{"step": self.rows, **values}])
        self._count += 1

    def complete(self) -> None:
        """Let all jobs have as many rows as the first."""
        while self._count % JOBS:
            self.log()


def _planned(folder: Path) -> tuple["Plan", "Store"]:
    from bacl.datasets.prepare import prepare
    from bacl_platform.plan.planner import make_plan
    from bacl_platform.spec.load import load
    from bacl_platform.store.store import Store

    path, store = folder / "bench.yaml", Store(folder / "store")
    path.write_text(EXPERIMENT, encoding="utf-8")
    experiment = load(path, [f"seeds={list(range(JOBS))}"])
    return make_plan(experiment, prepare(experiment.dataset, store.datasets), store), store


def _check(plan: "Plan", store: "Store", rows: int) -> None:
    from mlflow import MlflowClient

    from bacl_platform.tracking.tracking import tracking_uri

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
    from bacl_platform.tracking.tracking import sqlite_uri

    port = free_port()
    known = os.environ.get("MLFLOW_TRACKING_URI")
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--artifacts-destination", str(folder)]
    command += [*where, "--backend-store-uri", sqlite_uri(folder / "mlflow.db")]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with serving("an MLflow server", command, port, folder / "server.log", env):
        try:
            os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
            yield
        finally:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            if known is not None:
                os.environ["MLFLOW_TRACKING_URI"] = known
