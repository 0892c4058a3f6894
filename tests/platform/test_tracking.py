"""MLflow: the runs of a plan, and each metric's step once."""

import json

import pytest
from mlflow import MlflowClient

from bacl.errors import RunError, UsageError
from bacl_platform import tracking as tracking_module
from bacl_platform.store import sha256
from bacl_platform.tracking import Tracking, flatten, serve

ROWS = [
    {"step": 10, "lr": 0.01, "loss": 3.0, "bacl.loss_cls": 2.0, "softmax.loss_cls": 1.0},
    {"step": 12, "lr": 0.01, "loss": 2.0, "bacl.loss_cls": 1.5, "softmax.loss_cls": 0.5},
]


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def client(store):
    return MlflowClient(f"sqlite:///{store.root}/mlflow.db")


def finish(store, job) -> None:
    """Publish an entry for a job as the worker would."""
    folder = store.work(job.key) / "entry"
    for name in ("", *job.variants):
        place = folder / "variants" / name if name else folder
        place.mkdir(parents=True)
        (place / "checkpoint.pth").write_bytes(name.encode())
    for name in job.variants:
        metrics = {"metrics": {"AP": 0.25, "AP_r": None}, "evaluator": {"name": "hotcoco"}}
        (folder / "variants" / name / "metrics.json").write_text(json.dumps(metrics))
        (folder / "variants" / name / "categories.csv").write_text("id,AP\n")
    (folder / "scalars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    store.publish(job.key, folder)


def runs(client) -> dict:
    experiment = client.get_experiment_by_name("tiny")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def history(client, run, name):
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]


def test_job_and_variants_are_children_of_one_parent_run(planned, store, client):
    plan = planned()
    features, heads = plan.jobs
    with Tracking.of_plan(plan, store) as tracking:
        for job in plan.jobs:
            tracking.start(job)
            tracking.log(job, ROWS)
            finish(store, job)
            tracking.finish(job, cached=False)
    found = runs(client)
    assert set(found) == {
        "tiny",
        "job features",
        "features seed 0",
        "job heads",
        "bacl seed 0",
        "softmax seed 0",
    }
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    parent = found.pop("tiny")
    assert parent.data.params["detector.fc_channels"] == "32"
    for run in found.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["bacl.dataset_digest"] == heads.dataset_digest
    bacl = found["bacl seed 0"]
    assert bacl.data.tags["bacl.key"] == heads.key
    assert bacl.data.tags["bacl.parent_key"] == features.key
    checkpoint = store.entry(heads.key) / "variants" / "bacl" / "checkpoint.pth"
    assert bacl.data.tags["bacl.checkpoint"] == checkpoint.as_uri()
    assert bacl.data.tags["bacl.checkpoint_sha256"] == sha256(checkpoint)
    assert bacl.data.params["variant.alpha"] == "0.85"
    assert bacl.data.params["recipe.schedule.lr"] == "0.02"
    assert history(client, bacl, "loss_cls") == [(10, 2.0), (12, 1.5)]
    assert history(client, bacl, "AP") == [(12, 0.25)]
    assert "AP_r" not in bacl.data.metrics
    assert history(client, found["job heads"], "loss") == [(10, 3.0), (12, 2.0)]
    names = {artifact.path for artifact in client.list_artifacts(bacl.info.run_id)}
    assert names == {"metrics.json", "categories.csv"}


def test_step_logged_before_an_interruption_is_not_logged_again(planned, store, client):
    plan = planned()
    features = plan.jobs[0]
    with pytest.raises(KeyboardInterrupt), Tracking.of_plan(plan, store) as tracking:
        tracking.start(features)
        tracking.log(features, ROWS[:1])
        raise KeyboardInterrupt
    assert {run.info.status for run in runs(client).values()} == {"KILLED"}
    with Tracking.of_plan(plan, store) as tracking:
        tracking.start(features)
        tracking.log(features, ROWS)
        finish(store, features)
        tracking.finish(features, cached=False)
    found = runs(client)
    assert len(found) == 3
    assert history(client, found["job features"], "loss") == [(10, 3.0), (12, 2.0)]
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_cached_job_gets_its_children_under_a_new_parent(planned, store, client):
    plan = planned()
    for job in plan.jobs:
        finish(store, job)
    with Tracking.of_plan(plan, store) as tracking:
        for job in plan.jobs:
            assert not tracking.finished(job)
            tracking.finish(job, cached=True)
    softmax = runs(client)["softmax seed 0"]
    assert softmax.data.tags["bacl.cached"] == "true"
    assert history(client, softmax, "loss_cls") == [(10, 1.0), (12, 0.5)]
    with Tracking.of_plan(plan, store) as tracking:
        assert all(tracking.finished(job) for job in plan.jobs)
    assert len(runs(client)) == 6


def test_failed_job_carries_its_sentence(planned, store, client):
    plan = planned()
    with pytest.raises(RunError), Tracking.of_plan(plan, store) as tracking:
        tracking.start(plan.jobs[0])
        tracking.fail(plan.jobs[0], "loss is not finite")
        raise RunError("loss is not finite")
    run = runs(client)["job features"]
    assert run.info.status == "FAILED"
    assert run.data.tags["bacl.error"] == "loss is not finite"


def test_tracking_store_that_cannot_be_used_is_told(planned, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "carrier-pigeon://loft")
    with pytest.raises(RunError, match="expected an MLflow tracking store at carrier-pigeon"):
        Tracking.of_plan(planned(), store)


def test_settings_are_flattened_and_lists_stay_values():
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {
        "a.b": 1,
        "a.c.d": [1, 2],
        "e": None,
    }


def test_port_in_use_names_a_free_one(store, monkeypatch):
    monkeypatch.setattr(tracking_module, "_is_free", lambda port: port == 5002)
    with pytest.raises(UsageError, match=r"port 5000 is in use: try `bacl ui --port 5002`"):
        serve(store, 5000)


def test_ui_serves_this_stores_runs_on_loopback_only(store, monkeypatch):
    started = []
    monkeypatch.setattr(tracking_module.os, "execv", lambda program, argv: started.extend(argv))
    monkeypatch.setattr(tracking_module, "_is_free", lambda port: True)
    serve(store, 5000)
    assert started[started.index("--host") + 1] == "127.0.0.1"
    assert started[started.index("--backend-store-uri") + 1] == f"sqlite:///{store.root}/mlflow.db"


def test_ui_of_another_tracking_server_is_found_there(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    with pytest.raises(UsageError, match="http://tracker:5000"):
        serve(store, 5000)
