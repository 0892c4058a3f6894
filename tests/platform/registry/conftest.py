"""A finished experiment whose runs MLflow has."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from bacl_platform.api.experiment import Experiment
from bacl_platform.plan.job import Job, Plan
from bacl_platform.store.store import Store
from bacl_platform.tracking.tracking import Tracking


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "BACL_URL_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@pytest.fixture
def client(store: Store, empty_database: Path) -> Any:
    """MLflow as the test's store has it."""
    shutil.copy(empty_database, store.root / "mlflow.db")
    return MlflowClient(f"sqlite:///{store.root}/mlflow.db")


@pytest.fixture
def experiment(
    tiny: Path,
    planned: Callable[..., Plan],
    finished: Callable[[Job], None],
    store: Store,
    client: Any,
) -> Experiment:
    """The tiny experiment, trained and tracked."""
    plan = planned()
    with Tracking.of_plan(plan, store) as tracking:
        for job in plan.jobs:
            finished(job)
            tracking.finish(job, cached=False)
    return Experiment.load(tiny, store=store)
